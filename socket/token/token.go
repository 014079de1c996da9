// Package token signs values that a server gives to a client and receives back, such as the id of a
// user. The server puts the token into a page, and the page's socket sends it when it connects.
//
// A token is signed but not encrypted. Its holder can read the value, and only the holder of a key
// can make or change a token. It can be the authToken of phoenix.js, or one of its params.
//
// A program calls [New] once. Any number of goroutines may use the returned [Tokens]. The program
// calls [Tokens.Sign] when a user has logged in, and [Tokens.Verify] in
// [bennu.example/socket.Config.Connect]. Nothing is stored, so a token is valid until it expires or
// its key is removed.
package token

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"bennu.example/internal/exactjson"
)

var (
	// ErrMissing is returned by Verify for the empty token.
	ErrMissing = errors.New("token: missing")
	// ErrInvalid is returned by Verify for a token that was not signed with one of the keys for this
	// purpose, or that was changed.
	ErrInvalid = errors.New("token: invalid")
	// ErrExpired is returned by Verify for a token that is older than Config.MaxAge.
	ErrExpired = errors.New("token: expired")
)

const (
	// MinKey is the minimum length of a key in bytes. Make keys with crypto/rand or with
	// `openssl rand -base64 32`, and keep them secret.
	MinKey = 32
	// maxToken is the maximum length of a token.
	maxToken = 16 << 10
	// clockSkew is the time by which the clock of the node that signed a token may be ahead.
	clockSkew = time.Minute
	// version begins every token, so that its format can change.
	version       = 1
	defaultMaxAge = 24 * time.Hour
)

// Config configures Tokens.
type Config struct {
	// Keys are the secrets. Sign uses the first one, and Verify accepts all of them. To change the
	// key, insert a new one at the front, and remove the old one when its tokens have expired.
	Keys [][]byte
	// Purpose is the use of the tokens, such as "user socket" or "password reset". A token for one
	// purpose is invalid for another, because the actual keys are derived from Keys and Purpose.
	Purpose string
	// MaxAge is how long a token is valid. Zero means 24 h, as in Phoenix. A negative value means that
	// tokens do not expire.
	MaxAge time.Duration
}

// Tokens signs values of type T, encoded as JSON, and verifies them. Its methods may be called from
// any goroutine.
type Tokens[T any] struct {
	keys   [][]byte // derived
	maxAge time.Duration
}

// New returns Tokens. It returns an error if there is no key, or if a key is shorter than MinKey.
func New[T any](cfg Config) (*Tokens[T], error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("token: no key")
	}
	t := &Tokens[T]{maxAge: cfg.MaxAge}
	if t.maxAge == 0 {
		t.maxAge = defaultMaxAge
	}
	for i, secret := range cfg.Keys {
		if len(secret) < MinKey {
			return nil, fmt.Errorf("token: key %d has %d bytes, want %d or more", i, len(secret), MinKey)
		}
		key, err := hkdf.Key(sha256.New, secret, nil, "bennu token "+cfg.Purpose, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("token: derive key: %w", err)
		}
		t.keys = append(t.keys, key)
	}
	return t, nil
}

// head is the length of the bytes before the value: the version, and the time of signing in
// milliseconds since 1970.
const head = 1 + 8

// Sign returns a token of v, which is valid from now on. It returns an error if v cannot be encoded
// or the token would be longer than 16 KiB.
func (t *Tokens[T]) Sign(v T) (string, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("token: sign: %w", err)
	}
	body := make([]byte, 0, head+len(value))
	body = append(body, version)
	body = binary.BigEndian.AppendUint64(body, uint64(time.Now().UnixMilli()))
	body = append(body, value...)
	token := encoding.EncodeToString(body) + "." + encoding.EncodeToString(sign(t.keys[0], body))
	if len(token) > maxToken {
		return "", fmt.Errorf("token: sign: token of %d bytes is too long", len(token))
	}
	return token, nil
}

// Verify returns the value of a token, decoded in the same way as by
// [bennu.example/serializer.Payload.Decode]. The error is ErrMissing, ErrInvalid or ErrExpired. It
// has no details, so that it can be sent to the client.
func (t *Tokens[T]) Verify(token string) (v T, err error) {
	v, _, err = t.VerifyUntil(token)
	return v, err
}

// VerifyUntil is Verify, and returns when the token expires: the zero time if it does not.
func (t *Tokens[T]) VerifyUntil(token string) (v T, expires time.Time, err error) {
	if token == "" {
		return v, expires, ErrMissing
	}
	first, second, ok := strings.Cut(token, ".")
	if !ok || len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 would skip line breaks
		return v, expires, ErrInvalid
	}
	body, err1 := encoding.DecodeString(first)
	signature, err2 := encoding.DecodeString(second)
	if err1 != nil || err2 != nil || len(body) < head || !t.isSigned(body, signature) || body[0] != version {
		return v, expires, ErrInvalid
	}
	signed := time.UnixMilli(int64(binary.BigEndian.Uint64(body[1:head])))
	age := time.Since(signed)
	switch {
	case age < -clockSkew:
		return v, expires, ErrInvalid
	case t.maxAge > 0 && age > t.maxAge:
		return v, expires, ErrExpired
	}
	if exactjson.Unmarshal(body[head:], &v) != nil { // the token was signed for another type
		var zero T
		return zero, expires, ErrInvalid
	}
	if t.maxAge > 0 {
		expires = signed.Add(t.maxAge)
	}
	return v, expires, nil
}

// encoding is strict: there is one text for any bytes, so that every change of a token's text is
// detected.
var encoding = base64.RawURLEncoding.Strict()

func sign(key, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return m.Sum(nil)
}

// isSigned compares the signature with that of every key, each in constant time.
func (t *Tokens[T]) isSigned(body, signature []byte) bool {
	ok := false
	for _, key := range t.keys {
		if hmac.Equal(signature, sign(key, body)) {
			ok = true
		}
	}
	return ok
}
