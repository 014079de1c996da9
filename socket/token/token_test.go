package token_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/internal/testenv/leak"
	"bennu.example/socket/token"
)

func TestMain(m *testing.M) { leak.Main(m) }

func key(b byte) []byte { return bytes.Repeat([]byte{b}, token.MinKey) }

func tokens[T any](t testing.TB, cfg token.Config) *token.Tokens[T] {
	t.Helper()
	if cfg.Keys == nil {
		cfg.Keys = [][]byte{key(1)}
	}
	s, err := token.New[T](cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type user struct {
	ID    int    `json:"id"`
	Admin bool   `json:"admin"`
	Name  string `json:"name"`
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	s := tokens[user](t, token.Config{})
	want := user{7, true, "ž☃"}
	signed, err := s.Sign(want)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(signed, "+/=&?# ") {
		t.Errorf("%s needs escaping in a URL", signed)
	}
	if got, err := s.Verify(signed); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := s.Verify(""); !errors.Is(err, token.ErrMissing) {
		t.Errorf("an empty token: %v", err)
	}
	for i := range signed { // change each byte
		changed := []byte(signed)
		changed[i] ^= 1
		if got, err := s.Verify(string(changed)); !errors.Is(err, token.ErrInvalid) || got != (user{}) {
			t.Fatalf("byte %d changed: %+v, %v", i, got, err)
		}
	}
	for _, bad := range []string{
		"x", ".", "..", signed + "x", signed + ".x", signed[1:],
		"AQ." + strings.Split(signed, ".")[1], strings.Repeat("A", 1<<20),
	} {
		if _, err := s.Verify(bad); !errors.Is(err, token.ErrInvalid) {
			t.Errorf("%.40s: %v", bad, err)
		}
	}
}

// TestTextIsUnique checks that no other text is accepted for a token. Otherwise a client could
// evade a list of revoked tokens.
func TestTextIsUnique(t *testing.T) {
	t.Parallel()
	s := tokens[user](t, token.Config{})
	signed, err := s.Sign(user{7, true, "ann"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(signed) + 1 {
		for _, more := range []string{"\n", "\r", "\r\n", " ", "=", "\t", "\x00", "."} {
			if _, err := s.Verify(signed[:i] + more + signed[i:]); !errors.Is(err, token.ErrInvalid) {
				t.Fatalf("%q at %d: %v", more, i, err)
			}
		}
	}
	first, second, _ := strings.Cut(signed, ".")
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for _, c := range alphabet { // the last letter of each part may have unused bits
		for _, other := range []string{
			first[:len(first)-1] + string(c) + "." + second,
			first + "." + second[:len(second)-1] + string(c),
		} {
			if _, err := s.Verify(other); other != signed && !errors.Is(err, token.ErrInvalid) {
				t.Errorf("%q: %v", other, err)
			}
		}
	}
}

// TestHugeTokensAreCheap bounds the memory that Verify allocates for tokens that are much too long
// or that consist of separators.
func TestHugeTokensAreCheap(t *testing.T) {
	s := tokens[int](t, token.Config{})
	for _, huge := range []string{
		strings.Repeat(".", 1<<20), strings.Repeat("A", 1<<20) + ".A",
		"A." + strings.Repeat("A", 1<<20), strings.Repeat(".A", 8000),
	} {
		const runs = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if _, err := s.Verify(huge); !errors.Is(err, token.ErrInvalid) {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 32<<10 {
			t.Errorf("Verify of %.10s… with %d bytes allocates %d bytes", huge, len(huge), n)
		}
	}
}

func TestKeysAndPurposes(t *testing.T) {
	t.Parallel()
	old := tokens[int](t, token.Config{Keys: [][]byte{key(1)}, Purpose: "a"})
	both := tokens[int](t, token.Config{Keys: [][]byte{key(2), key(1)}, Purpose: "a"})
	fresh := tokens[int](t, token.Config{Keys: [][]byte{key(2)}, Purpose: "a"})
	other := tokens[int](t, token.Config{Keys: [][]byte{key(1)}, Purpose: "b"})
	text := tokens[string](t, token.Config{Keys: [][]byte{key(1)}, Purpose: "a"})
	byOld, err := old.Sign(1)
	if err != nil {
		t.Fatal(err)
	}
	byBoth, err := both.Sign(2)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		s     *token.Tokens[int]
		token string
		ok    bool
	}{
		"old key, rotated":     {both, byOld, true},
		"new key, rotated":     {both, byBoth, true},
		"old key removed":      {fresh, byOld, false},
		"new key, old removed": {fresh, byBoth, true},
		"unknown key":          {old, byBoth, false},
		"another purpose":      {other, byOld, false},
	} {
		if _, err := test.s.Verify(test.token); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got, err := text.Verify(byOld); !errors.Is(err, token.ErrInvalid) || got != "" {
		t.Errorf("another type: %q, %v", got, err)
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		day := tokens[int](t, token.Config{})
		hour := tokens[int](t, token.Config{MaxAge: time.Hour})
		unlimited := tokens[int](t, token.Config{MaxAge: -1})
		signed, err := day.Sign(1)
		if err != nil {
			t.Fatal(err)
		}
		check := func(when string, wants ...error) {
			t.Helper()
			for i, s := range []*token.Tokens[int]{day, hour, unlimited} {
				if _, err := s.Verify(signed); !errors.Is(err, wants[i]) {
					t.Errorf("%s, %d: %v", when, i, err)
				}
			}
		}
		check("immediately", nil, nil, nil)
		time.Sleep(time.Hour)
		check("after an hour", nil, nil, nil)
		time.Sleep(time.Second)
		check("after more than an hour", nil, token.ErrExpired, nil)
		time.Sleep(24 * time.Hour)
		check("after a day", token.ErrExpired, token.ErrExpired, nil)
	})
}

func TestInvalidArguments(t *testing.T) {
	t.Parallel()
	if _, err := token.New[int](token.Config{}); err == nil {
		t.Error("New accepted a config without keys")
	}
	if _, err := token.New[int](token.Config{Keys: [][]byte{key(1), []byte("short")}}); err == nil {
		t.Error("New accepted a short key")
	}
	if _, err := tokens[chan int](t, token.Config{}).Sign(nil); err == nil {
		t.Error("a channel was signed")
	}
	if _, err := tokens[string](t, token.Config{}).Sign(strings.Repeat("x", 1<<20)); err == nil {
		t.Error("a megabyte was signed")
	}
}

func FuzzVerify(f *testing.F) {
	s := tokens[map[string]any](f, token.Config{})
	signed, err := s.Sign(map[string]any{"id": 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add("AQ.AQ")
	f.Fuzz(func(t *testing.T, text string) {
		// The processes of the fuzzer sign at different times.
		if v, err := s.Verify(text); err == nil && fmt.Sprint(v) != "map[id:1]" {
			t.Fatalf("%q is valid for %v", text, v)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	s := tokens[user](b, token.Config{})
	signed, err := s.Sign(user{1, false, "ann"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Verify(signed); err != nil {
			b.Fatal(err)
		}
	}
}

// TestIntegers checks that integers beyond 2^53 keep their value in a map.
func TestIntegers(t *testing.T) {
	t.Parallel()
	s := tokens[map[string]any](t, token.Config{})
	text, err := s.Sign(map[string]any{"id": uint64(math.MaxUint64), "n": 1})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Verify(text)
	want := map[string]any{"id": json.Number("18446744073709551615"), "n": 1.}
	if err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("%v: %#v", err, v)
	}
}

func TestVerifyUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for maxAge, want := range map[time.Duration]time.Duration{0: 24 * time.Hour, time.Hour: time.Hour, -1: 0} {
			users := tokens[string](t, token.Config{Keys: [][]byte{key(1)}, MaxAge: maxAge})
			begun := time.Now()
			text, err := users.Sign("ann")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) // in virtual time
			user, expires, err := users.VerifyUntil(text)
			if err != nil || user != "ann" || expires.IsZero() != (want == 0) || want > 0 && !expires.Equal(begun.Add(want)) {
				t.Errorf("age %v: %q, %v, %v", maxAge, user, expires, err)
			}
			if user, expires, err := users.VerifyUntil(text + "x"); err == nil || user != "" || !expires.IsZero() {
				t.Errorf("changed: %q, %v, %v", user, expires, err)
			}
		}
	})
}
