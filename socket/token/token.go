// Package token signs what a server gives to a client to show again: the user's id in a page, say, for the socket that the page opens.
//
// A token is signed, not encrypted: whoever has it can read it, and nobody without a key can make or change one. It goes into phoenix.js's
// authToken or params as it is.
//
// A program makes a [Tokens] once, by [New], which any number of goroutines may use: [Tokens.Sign] where a user is logged in, [Tokens.Verify] in
// [bennu.example/socket.Config.Connect]. Nothing is stored, so a token is good until it is too old, or its key is removed.
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
	// ErrInvalid is returned by Verify for what was not signed with one of the keys for this purpose, or was changed since.
	ErrInvalid = errors.New("token: invalid")
	// ErrExpired is returned by Verify for a token that is older than Config.MaxAge.
	ErrExpired = errors.New("token: expired")
)

const (
	// MinKey is the length that a key must have, in bytes. Make one with crypto/rand, or `openssl rand -base64 32`, and keep it secret.
	MinKey = 32
	// maxToken bounds what Verify looks at.
	maxToken = 16 << 10
	// clockSkew is how far the clock of the node that signed may be ahead.
	clockSkew = time.Minute
	// version begins every token, so that its format can change.
	version       = 1
	defaultMaxAge = 24 * time.Hour
)

// Config says how tokens are made.
type Config struct {
	// Keys are the secrets. The first signs, and all are accepted: to change it, put a new one in front, and remove the old one when the
	// tokens that it signed have expired.
	Keys [][]byte
	// Purpose keeps tokens for one use from being good for another: "user socket", "password reset". The keys are derived from it.
	Purpose string
	// MaxAge is how long a token is good for; 0 is 24 h, as in Phoenix, and a negative one is for ever.
	MaxAge time.Duration
}

// Tokens signs values of type T, as JSON, and verifies them. It may be used by any number of goroutines.
type Tokens[T any] struct {
	keys   [][]byte // derived
	maxAge time.Duration
}

// New checks the config.
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

// head is what stands before the value: the version, and when it was signed, in milliseconds since 1970.
const head = 1 + 8

// Sign makes a token of v, which is good from now on. The error is that of encoding v, or of its size.
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
		return "", fmt.Errorf("token: sign: %d bytes are too many", len(token))
	}
	return token, nil
}

// Verify returns what was signed, decoded as [bennu.example/serializer.Payload.Decode] does. The error is ErrMissing, ErrInvalid or ErrExpired; it says nothing about why, since the client may see it.
func (t *Tokens[T]) Verify(token string) (v T, err error) {
	if token == "" {
		return v, ErrMissing
	}
	first, second, ok := strings.Cut(token, ".")
	if !ok || len(token) > maxToken || strings.ContainsAny(token, "\r\n") { // base64 would skip line breaks
		return v, ErrInvalid
	}
	body, err1 := encoding.DecodeString(first)
	signature, err2 := encoding.DecodeString(second)
	if err1 != nil || err2 != nil || len(body) < head || !t.signed(body, signature) || body[0] != version {
		return v, ErrInvalid
	}
	age := time.Since(time.UnixMilli(int64(binary.BigEndian.Uint64(body[1:head]))))
	switch {
	case age < -clockSkew:
		return v, ErrInvalid
	case t.maxAge > 0 && age > t.maxAge:
		return v, ErrExpired
	}
	if exactjson.Unmarshal(body[head:], &v) != nil { // signed for another type
		var zero T
		return zero, ErrInvalid
	}
	return v, nil
}

// encoding has one text for any bytes, so that a token cannot be changed without effect.
var encoding = base64.RawURLEncoding.Strict()

func sign(key, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return m.Sum(nil)
}

// signed compares with every key, in constant time each.
func (t *Tokens[T]) signed(body, signature []byte) bool {
	ok := false
	for _, key := range t.keys {
		if hmac.Equal(signature, sign(key, body)) {
			ok = true
		}
	}
	return ok
}
