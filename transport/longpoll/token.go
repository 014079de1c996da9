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
	// tokenSigned is the size of the signed part: version, time of issue in seconds since 1970, node
	// and session. The HMAC-SHA256 of it follows.
	tokenSigned = 1 + 8 + 2*tokenIDSize
	tokenSize   = tokenSigned + sha256.Size
	// tokenLength is the length of a token's text.
	tokenLength = (tokenSize*8 + 5) / 6
)

// tokenText is the encoding of a token in a URL or a header. It is strict, so that a token has only
// one text.
var tokenText = base64.RawURLEncoding.Strict()

// tokenID identifies a node or a session. It is random, so that a session cannot be guessed even if
// the secret is weak.
type tokenID [tokenIDSize]byte

func newTokenID() (id tokenID) {
	rand.Read(id[:]) // never fails
	return id
}

// claims is the content of a token.
type claims struct {
	issued  int64 // seconds since 1970
	node    tokenID
	session tokenID
}

// tokens signs and verifies the tokens of sessions. Its methods may be called from any goroutine.
type tokens struct {
	key     []byte
	signers sync.Pool // of *signer
}

// signer has the buffers for signing or verifying one token.
type signer struct {
	mac  hash.Hash
	text [tokenLength]byte
	raw  [tokenSize]byte
	sum  [sha256.Size]byte
}

// newTokens derives the key from the secret, so that no token is valid elsewhere if the secret has
// another use as well. An empty secret means a random one.
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

// address returns the address on which a node receives messages of its peers. It depends on the
// secret, because clients can read the node's id in their tokens, and must not be able to name its
// address.
func (t *tokens) address(node tokenID) string {
	mac := hmac.New(sha256.New, t.key)
	mac.Write([]byte("address"))
	mac.Write(node[:])
	return "phx:lp:" + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// sign returns the token with the given claims.
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

// verify returns the claims of a token. It reports whether the token was signed with this key and
// is not older than maxAge.
func (t *tokens) verify(token string, now time.Time, maxAge time.Duration) (c claims, ok bool) {
	if len(token) != tokenLength { // this also excludes line breaks, which base64 would ignore
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

// sign returns the HMAC of raw.
func (s *signer) sign() []byte {
	s.mac.Reset()
	s.mac.Write(s.raw[:tokenSigned])
	return s.mac.Sum(s.sum[:0])
}
