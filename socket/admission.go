package socket

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"bennu.example/internal/ratelimit"
	"bennu.example/transport/longpoll"
)

// Admission bounds all sockets of one client together, so that a client cannot evade a bound by
// opening more sockets or by reconnecting. Each node counts separately. All bounds are off unless
// set; see docs/security.md.
type Admission struct {
	// Key names the client that a handshake comes from, by its address or its user. It runs before
	// Connect, on the request's goroutine, and should be fast; a panic is answered with 500. A client
	// with an empty key has no bounds. Nil means the client's IP address, or the first 64 bits of an
	// IPv6 address: that of the connection, or the one that Config.TrustedProxies forwarded.
	Key func(r *http.Request) string

	// MaxSockets bounds the sockets of a client. A handshake beyond it is answered with 429.
	MaxSockets int
	// HandshakeRate bounds the handshakes of a client, per second and with twice as many at once. A
	// handshake beyond it is answered with 429.
	HandshakeRate int
	// JoinRate bounds the joins of a client in the same way. A join beyond it is refused, reason
	// "too many joins".
	JoinRate int
	// MessageRate bounds the other messages of a client in the same way, except heartbeats. A
	// message beyond it is answered with an error, reason "too many messages".
	MessageRate int

	// MaxKeys bounds the clients that are counted at a time. Zero means 100,000. A client is counted
	// as long as it has sockets, and for two seconds after its last handshake, join or message.
	// Handshakes of further clients are answered with 503.
	MaxKeys int
}

const (
	defaultMaxKeys = 100_000
	// maxKey is the maximum length of a key that is stored unchanged. A longer one is stored as its
	// hash.
	maxKey = 64
	// sweepPause is the minimum time between two searches for keys that can be removed.
	sweepPause = time.Second
	minSweep   = 1024
)

// admission counts clients by their keys. Its mutex may be locked before that of a client.
type admission struct {
	key                         func(*http.Request) string
	maxSockets, maxKeys         int
	handshakes, joins, messages ratelimit.Rate

	mu       sync.Mutex
	visitors map[string]*visitor
	sweepAt  int // the number of clients that triggers the next sweep
	swept    time.Time
}

// visitor is the state of one key of Config.Admission. A nil *visitor has no bounds.
type visitor struct {
	in  *admission
	key string

	mu                          sync.Mutex
	sockets                     int // including handshakes in progress
	handshakes, joins, messages ratelimit.Bucket
}

// newAdmission returns nil if no bound is set.
func newAdmission(cfg Admission, proxies []netip.Prefix) *admission {
	if cfg.MaxSockets <= 0 && cfg.HandshakeRate <= 0 && cfg.JoinRate <= 0 && cfg.MessageRate <= 0 {
		return nil
	}
	a := &admission{
		key:        cfg.Key,
		maxSockets: cfg.MaxSockets,
		maxKeys:    cfg.MaxKeys,
		handshakes: ratelimit.PerSecond(cfg.HandshakeRate),
		joins:      ratelimit.PerSecond(cfg.JoinRate),
		messages:   ratelimit.PerSecond(cfg.MessageRate),
		visitors:   make(map[string]*visitor),
	}
	if a.maxKeys <= 0 {
		a.maxKeys = defaultMaxKeys
	}
	a.sweepAt = min(minSweep, a.maxKeys)
	if a.key == nil {
		a.key = func(r *http.Request) string { return addressKey(clientAddr(r, proxies)) }
	}
	return a
}

// addressKey returns the key of an address. A customer of a provider usually has a prefix of 64
// bits of IPv6.
func addressKey(a netip.Addr) string {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// Errors of handshakes that Admission refuses.
var (
	errKeyTooFast = fmt.Errorf("too many handshakes of one client: see socket.Admission.HandshakeRate: %w",
		longpoll.StatusError(http.StatusTooManyRequests))
	errKeySockets = fmt.Errorf("too many sockets of one client: see socket.Admission.MaxSockets: %w",
		longpoll.StatusError(http.StatusTooManyRequests))
	errManyKeys = fmt.Errorf("too many clients: see socket.Admission.MaxKeys: %w",
		longpoll.StatusError(http.StatusServiceUnavailable))
)

// admit counts a handshake. If it returns a client, the caller must call release when the handshake
// has failed or its socket has ended.
func (a *admission) admit(r *http.Request) (*visitor, error) {
	if a == nil {
		return nil, nil
	}
	key, err := a.keyOf(r)
	if err != nil || key == "" {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.visitors[key]
	if v == nil {
		if !a.makeRoom() {
			return nil, errManyKeys
		}
		v = &visitor{in: a, key: key}
		a.visitors[key] = v
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case !v.handshakes.Take(a.handshakes):
		return nil, errKeyTooFast
	case a.maxSockets > 0 && v.sockets >= a.maxSockets:
		return nil, errKeySockets
	}
	v.sockets++
	return v, nil
}

// keyOf calls the user's Key function.
func (a *admission) keyOf(r *http.Request) (key string, err error) {
	if err = callUser(func() error { key = a.key(r); return nil }); err != nil {
		return "", err
	}
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = string(sum[:])
	}
	return key, nil
}

// makeRoom removes idle clients if necessary, and reports whether another client can be added. The
// caller holds mu.
func (a *admission) makeRoom() bool {
	now := time.Now()
	if len(a.visitors) >= a.sweepAt && now.Sub(a.swept) >= sweepPause {
		a.swept = now
		for key, v := range a.visitors {
			if v.idle(now) {
				delete(a.visitors, key)
			}
		}
		a.sweepAt = min(max(2*len(a.visitors), minSweep), a.maxKeys)
	}
	return len(a.visitors) < a.maxKeys
}

// idle reports whether the client has no state, so that it can be removed.
func (v *visitor) idle(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sockets == 0 && v.handshakes.IsFull(now) && v.joins.IsFull(now) && v.messages.IsFull(now)
}

// release uncounts a socket, or a handshake that failed.
func (v *visitor) release() {
	if v == nil {
		return
	}
	v.in.mu.Lock()
	defer v.in.mu.Unlock()
	v.mu.Lock()
	v.sockets--
	v.mu.Unlock()
	if v.idle(time.Now()) {
		delete(v.in.visitors, v.key)
	}
}

func (v *visitor) allowJoin() bool {
	return v == nil || v.take(&v.joins, v.in.joins)
}

func (v *visitor) allowMessage() bool {
	return v == nil || v.take(&v.messages, v.in.messages)
}

func (v *visitor) take(b *ratelimit.Bucket, r ratelimit.Rate) bool {
	if r.Every == 0 {
		return true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return b.Take(r)
}
