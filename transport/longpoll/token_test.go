package longpoll

import (
	"strings"
	"testing"
	"time"
)

func testClaims() claims {
	return claims{issued: 1_800_000_000, node: newTokenID(), session: newTokenID()}
}

func TestTokenHasSignedClaims(t *testing.T) {
	t.Parallel()
	keys := newTokens([]byte("secret"))
	want := testClaims()
	token := keys.sign(want)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(token) != tokenLength || strings.Trim(token, alphabet) != "" {
		t.Errorf("%q does not fit in a URL or is not %d long", token, tokenLength)
	}
	at := time.Unix(want.issued, 0)
	for _, k := range []*tokens{keys, newTokens([]byte("secret"))} { // as on another node with the secret
		if got, ok := k.verify(token, at, time.Hour); !ok || got != want {
			t.Errorf("got %+v, %v", got, ok)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	keys := newTokens(nil)
	c := testClaims()
	token := keys.sign(c)
	const maxAge = 14 * 24 * time.Hour
	for _, test := range []struct {
		age time.Duration
		ok  bool
	}{{0, true}, {maxAge, true}, {maxAge + time.Second, false}, {-time.Hour, true}, {10 * maxAge, false}} {
		if _, ok := keys.verify(token, time.Unix(c.issued, 0).Add(test.age), maxAge); ok != test.ok {
			t.Errorf("at the age of %v: %v", test.age, ok)
		}
	}
}

// Any text except the issued token is refused, including those that base64 decodes to the same
// bytes.
func TestForgedTokens(t *testing.T) {
	t.Parallel()
	keys := newTokens([]byte("secret"))
	c := testClaims()
	token := keys.sign(c)
	at := time.Unix(c.issued, 0)
	refuse := func(what, token string) {
		t.Helper()
		if _, ok := keys.verify(token, at, time.Hour); ok {
			t.Errorf("%s accepted", what)
		}
	}
	refuse("nothing", "")
	refuse("another key's", newTokens([]byte("Secret")).sign(c))
	refuse("a random key's", newTokens(nil).sign(c))
	refuse("with padding", token+"==")
	refuse("with a line break", token[:10]+"\n"+token[10:])
	refuse("with a line break for a character", token[:10]+"\n"+token[11:])
	refuse("cut", token[:len(token)-1])
	refuse("doubled", token+token)
	refuse("long", strings.Repeat("A", 1<<20))
	for i := range token {
		for _, r := range []byte("AZaz09-_=\x00") {
			if token[i] != r {
				refuse("changed", token[:i]+string(rune(r))+token[i+1:])
			}
		}
	}
	future := keys.signers.New().(*signer)
	if _, err := tokenText.Decode(future.raw[:], []byte(token)); err != nil {
		t.Fatal(err)
	}
	future.raw[0] = tokenVersion + 1
	copy(future.raw[tokenSigned:], future.sign())
	refuse("of another version", tokenText.EncodeToString(future.raw[:]))
}

func TestTokenAllocations(t *testing.T) {
	keys := newTokens([]byte("secret"))
	c := testClaims()
	token := keys.sign(c)
	at := time.Unix(c.issued, 0)
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := keys.verify(token, at, time.Hour); !ok {
			t.Fatal("refused")
		}
	}); n > 3 { // normally none, but the race detector empties pools
		t.Errorf("%v allocations to check a token", n)
	}
}

// Only the issued token is accepted.
func FuzzToken(f *testing.F) {
	keys := newTokens([]byte("secret"))
	c := claims{issued: 1_800_000_000}
	issued := keys.sign(c)
	at := time.Unix(c.issued, 0)
	f.Add("")
	f.Add(issued)
	f.Add(issued + "\n")
	f.Add(issued[:50] + "A" + issued[51:])
	f.Add(newTokens(nil).sign(c))
	f.Add(strings.Repeat("A", tokenLength))
	f.Fuzz(func(t *testing.T, token string) {
		if got, ok := keys.verify(token, at, time.Hour); ok != (token == issued) || ok && got != c {
			t.Fatalf("%q: %+v, %v", token, got, ok)
		}
	})
}

func BenchmarkTokenVerify(b *testing.B) {
	b.ReportAllocs()
	keys := newTokens([]byte("secret"))
	c := testClaims()
	token := keys.sign(c)
	for b.Loop() {
		if _, ok := keys.verify(token, time.Unix(c.issued, 0), time.Hour); !ok {
			b.Fatal("refused")
		}
	}
}
