package socket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport/longpoll"
)

// Auth authenticates connections by tokens that expire. A client that has joined the channel
// $socket sends a new token over the open connection, and its channels go on. See
// docs/authentication.md.
type Auth struct {
	// Verify decides about a token: in the handshake, before Connect, and for each token that the
	// client sends later. An error refuses the token. A *push.Error or a push.Reason tells the client
	// the reason; otherwise it is "denied". A grant without an ID is refused, unless Anonymous is set.
	// A token may be verified more than once.
	//
	// The token of the handshake is Request.Token, or the connect parameter "token" if that is empty.
	// For later tokens, the Request has no HTTP and no Params. Verify runs on a goroutine of its own
	// then. Its context ends after Timeout.
	Verify func(ctx context.Context, token string, r *Request) (Grant, error)
	// Anonymous accepts clients without a token. Otherwise they are refused with 403.
	Anonymous bool
	// Notice is the time before the expiry at which the client is asked for a new token. Zero means
	// 3 min. It is at most half of the grant's life.
	Notice time.Duration
	// Grace is the time between the expiry and the end of the connection. Zero means 30 s. A negative
	// value means none.
	Grace time.Duration
	// MaxAge bounds the life of a grant. Zero means no bound.
	MaxAge time.Duration
	// Timeout bounds a call of Verify. Zero means 10 s.
	Timeout time.Duration
}

// Grant is the result of verifying a token. The zero Grant is that of an anonymous client.
type Grant struct {
	// ID is the subject: it becomes Request.ID. On one connection it changes only from and to the
	// empty ID.
	ID string
	// Context has values for the callbacks, which come before those of Connect. Nil means none. Its
	// cancellation has no effect.
	Context context.Context
	// Expires is when the grant ends. Zero means that it does not.
	Expires time.Time
	// Claims are sent to the client. Nil means none. They have at most 4 KiB when they are encoded.
	Claims any
	// Token is sent to the client, to use from now on. Empty means none.
	Token string
}

const (
	defaultNotice  = 3 * time.Minute
	defaultGrace   = 30 * time.Second
	defaultTimeout = 10 * time.Second
	maxToken       = 16 << 10
	maxClaims      = 4 << 10
)

func (a Auth) withDefaults() *Auth {
	a.Notice = cmp.Or(a.Notice, defaultNotice)
	a.Grace = max(cmp.Or(a.Grace, defaultGrace), 0)
	a.Timeout = cmp.Or(a.Timeout, defaultTimeout)
	return &a
}

// GrantFrom returns the grant of the connection that a callback's context belongs to. It reports
// false if the client is anonymous. It may be called in Connect.
func GrantFrom(ctx context.Context) (g Grant, ok bool) {
	v, _ := ctx.Value(grantKey{}).(*verified)
	if v == nil || v.grant.ID == "" {
		return Grant{}, false
	}
	return v.grant, true
}

type grantKey struct{}

// verified is a grant that may be used. As a context it has the grant's values.
type verified struct {
	context.Context // of the grant, without its cancellation
	grant           Grant
	claims          serializer.Payload
	expires         time.Time // by the monotonic clock; zero means never
	number          int       // of the changes of the session before it
}

func (v *verified) Value(key any) any {
	if key == (grantKey{}) {
		return v
	}
	return v.Context.Value(key)
}

// Errors of tokens. Those of push are sent to the client.
var (
	errTokenDenied  = push.Reject("denied")
	errIdentity     = push.Reject("identity changed")
	errUnavailable  = push.Reject("unavailable")
	errInvalidToken = push.Reject("invalid token")

	errNoToken      = errors.New("socket: no token")
	errNoSubject    = errors.New("socket: the grant has no ID")
	errLongToken    = fmt.Errorf("socket: token of more than %d bytes", maxToken)
	errGrantExpired = errors.New("socket: the grant has expired")
	errIDOfConnect  = fmt.Errorf("socket: Connect set another Request.ID than the grant's: %w",
		longpoll.StatusError(http.StatusInternalServerError))
	errVerifySlow = fmt.Errorf("socket: Verify did not return in time: %w",
		longpoll.StatusError(http.StatusServiceUnavailable))
)

// verify calls Verify, or makes the grant of an anonymous client.
func (a *Auth) verify(ctx context.Context, token string, r *Request) (*verified, error) {
	if token == "" {
		if !a.Anonymous {
			return nil, errNoToken
		}
		return newVerified(Grant{}, 0)
	}
	if len(token) > maxToken {
		return nil, errLongToken
	}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	defer cancel()
	var g Grant
	err := callUser(func() (err error) { g, err = a.Verify(ctx, token, r); return err })
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errVerifySlow
	case err != nil:
		return nil, err
	case g.ID == "" && !a.Anonymous:
		return nil, errNoSubject
	}
	return newVerified(g, a.MaxAge)
}

func newVerified(g Grant, maxAge time.Duration) (*verified, error) {
	v := &verified{Context: context.Background(), grant: g}
	if g.Context != nil {
		v.Context = context.WithoutCancel(g.Context)
	}
	if g.Claims != nil {
		var err error
		if v.claims, err = serializer.Value(g.Claims).Encoded(); err != nil {
			return nil, fmt.Errorf("socket: claims: %w", err)
		}
		if n := len(v.claims.Bytes()); n > maxClaims {
			return nil, fmt.Errorf("socket: claims of %d bytes, more than %d", n, maxClaims)
		}
	}
	life := time.Duration(-1)
	if !g.Expires.IsZero() {
		if life = time.Until(g.Expires); life <= 0 {
			return nil, errGrantExpired
		}
	}
	if maxAge > 0 && (life < 0 || life > maxAge) && g.ID != "" {
		life = maxAge
	}
	if life > 0 {
		v.expires = time.Now().Add(life)
	}
	return v, nil
}

// connectGrant is the context of Connect. It has the values of the grant until Connect has
// returned, because the context that Connect returns is made from it and lives longer.
type connectGrant struct {
	context.Context
	grant atomic.Pointer[verified] // nil when Connect has returned
}

func (c *connectGrant) Value(key any) any {
	if g := c.grant.Load(); g != nil {
		if v := g.Value(key); v != nil {
			return v
		}
	}
	return c.Context.Value(key)
}

// authenticate verifies the token of a handshake and sets the ID of the request.
func (h *Handler) authenticate(ctx context.Context, req *Request, params map[string]any) (*verified, error) {
	if h.cfg.Auth == nil {
		return nil, nil
	}
	token := req.Token
	if token == "" {
		token, _ = params["token"].(string)
	}
	v, err := h.cfg.Auth.verify(ctx, token, req)
	if err != nil {
		return nil, err
	}
	req.ID = v.grant.ID
	return v, nil
}

// The states of a grant, as the client receives them.
const (
	stateAnonymous     = "anonymous"
	stateAuthenticated = "authenticated"
	stateDenied        = "denied"
)

// loggedOutReason is the reason of the close of a client that has logged out.
const loggedOutReason = "logged out"

// authReply is the state of a grant and more about it, as the client receives it.
type authReply struct {
	State     string              `json:"state"`
	Reason    string              `json:"reason,omitempty"` // of stateDenied
	ExpiresIn *int64              `json:"expires_in,omitempty"`
	Claims    *serializer.Payload `json:"claims,omitempty"`
	Token     string              `json:"token,omitempty"`
}

func (v *verified) reply() *authReply {
	r := &authReply{State: stateAnonymous, Token: v.grant.Token}
	if v.grant.ID != "" {
		r.State = stateAuthenticated
	}
	if !v.expires.IsZero() {
		left := max(time.Until(v.expires).Milliseconds(), 0)
		r.ExpiresIn = &left
	}
	if v.grant.Claims != nil {
		r.Claims = &v.claims
	}
	return r
}

// tokenError returns the error for the client whose token was refused.
func tokenError(err error) error {
	var rejected *push.Error
	var reason push.Reason
	switch {
	case errors.As(err, &rejected):
		return rejected
	case errors.As(err, &reason):
		return reason
	case errors.Is(err, errVerifySlow), errors.Is(err, errManyRevocations):
		return errUnavailable
	}
	return errTokenDenied
}
