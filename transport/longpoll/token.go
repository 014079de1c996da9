package longpoll

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"sync"
	"time"
)

const (
	tokenVersion = 1
	tokenIDSize  = 16
	// Its parts: version, time of issue in seconds since 1970, node, session, and the HMAC-SHA256 of all that.
	tokenSigned = 1 + 8 + 2*tokenIDSize
	tokenSize   = tokenSigned + sha256.Size
	// tokenLength is that of a token's text.
	tokenLength = (tokenSize*8 + 5) / 6
)

// tokenText is how a token looks in a URL or a header. Strict: a token has one text only.
var tokenText = base64.RawURLEncoding.Strict()

// tokenID names a node or a session. It is random, so that nobody guesses a session, whatever the secret is worth.
type tokenID [tokenIDSize]byte

func newTokenID() (id tokenID) {
	rand.Read(id[:]) // never fails
	return id
}

// claims is what a token says.
type claims struct {
	issued  int64 // seconds since 1970
	node    tokenID
	session tokenID
}

// tokens signs the tokens of long-poll sessions and checks them. Its methods may be called from any goroutine.
type tokens struct {
	key     []byte
	signers sync.Pool // of *signer
}

// signer is what one token takes to be signed or checked.
type signer struct {
	mac  hash.Hash
	text [tokenLength]byte
	raw  [tokenSize]byte
	sum  [sha256.Size]byte
}

// newTokens derives the key from the secret, so that a secret used elsewhere too signs nothing that is valid there. No secret is a
// random one.
func newTokens(secret []byte) *tokens {
	if len(secret) == 0 {
		secret = make([]byte, sha256.Size)
		rand.Read(secret) // never fails
	}
	derive := hmac.New(sha256.New, secret)
	derive.Write([]byte("bennu long-poll token"))
	key := derive.Sum(nil)
	return &tokens{key, sync.Pool{New: func() any { return &signer{mac: hmac.New(sha256.New, key)} }}}
}

// address is where a node hears its peers. It follows from the secret too, as clients can read the node in their tokens: they might be
// allowed to listen, or to speak, to a name that they know.
func (t *tokens) address(node tokenID) string {
	mac := hmac.New(sha256.New, t.key)
	mac.Write([]byte("address"))
	mac.Write(node[:])
	return "phx:lp:" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sign makes the token that says c.
func (t *tokens) sign(c claims) string {
	s := t.signers.Get().(*signer)
	defer t.signers.Put(s)
	s.raw[0] = tokenVersion
	binary.BigEndian.PutUint64(s.raw[1:], uint64(c.issued))
	copy(s.raw[9:], c.node[:])
	copy(s.raw[9+tokenIDSize:], c.session[:])
	copy(s.raw[tokenSigned:], s.sign())
	return tokenText.EncodeToString(s.raw[:])
}

// verify returns what a token says, and whether it is one of ours that is not older than maxAge.
func (t *tokens) verify(token string, now time.Time, maxAge time.Duration) (c claims, ok bool) {
	if len(token) != tokenLength { // also keeps out the line breaks that base64 would skip
		return claims{}, false
	}
	s := t.signers.Get().(*signer)
	defer t.signers.Put(s)
	copy(s.text[:], token)
	if n, err := tokenText.Decode(s.raw[:], s.text[:]); err != nil || n != tokenSize {
		return claims{}, false
	}
	if !hmac.Equal(s.raw[tokenSigned:], s.sign()) || s.raw[0] != tokenVersion {
		return claims{}, false
	}
	c.issued = int64(binary.BigEndian.Uint64(s.raw[1:]))
	copy(c.node[:], s.raw[9:])
	copy(c.session[:], s.raw[9+tokenIDSize:])
	return c, now.Sub(time.Unix(c.issued, 0)) <= maxAge
}

// sign returns the HMAC of what raw says.
func (s *signer) sign() []byte {
	s.mac.Reset()
	s.mac.Write(s.raw[:tokenSigned])
	return s.mac.Sum(s.sum[:0])
}
