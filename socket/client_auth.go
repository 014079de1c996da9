package socket

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"bennu.example/internal/clientlink"
	"bennu.example/push"
	"bennu.example/serializer"
)

// ErrDenied is wrapped by State.Cause, and by the errors of pushes that were lost then, if the
// server does not accept the client with its credentials: it refused them, or ended the connection
// for good. It is also wrapped by the error of [Client.Authenticate] for a token that was refused.
var ErrDenied = errors.New("client denied")

// ErrTokenExpired is the push.Reason of the error replies to pushes and joins between the expiry of
// the token and the end of the connection. Such pushes are not sent again, but joins are.
// State.Cause wraps it if the client does not reconnect because it has no other token.
var ErrTokenExpired error = push.Reason(clientlink.TokenExpired)

// AuthStatus says whether the server has authenticated a client.
type AuthStatus uint8

const (
	// AuthUnknown means that the server has not told yet, or does not tell: it does not have the
	// channel $socket, as Phoenix, or no Config.Auth.
	AuthUnknown AuthStatus = iota
	// Anonymous means that the server accepts the client without a user.
	Anonymous
	// Authenticated means that the server has verified a token.
	Authenticated
	// Expiring is like Authenticated, but the token expires soon, and the server asks for another one.
	Expiring
	// Expired means that the token has expired. The server refuses joins and pushes, and closes the
	// connection unless it gets another token soon.
	Expired
	// AuthDenied means that the client has no connection, and makes no attempt before Connect or
	// Authenticate is called. AuthState.Err has the reason.
	AuthDenied
)

func (s AuthStatus) String() string {
	return stateName([]string{"unknown", "anonymous", "authenticated", "expiring", "expired", "denied"}, uint8(s))
}

// AuthState is the state of a client's authentication at one moment. While there is no connection,
// it is that of the last one.
type AuthState struct {
	Status  AuthStatus
	Expires time.Time          // when the token expires, or zero
	Claims  serializer.Payload // of the server's Grant
	// Err is why the client was denied, or why the last token was refused or could not be fetched. A
	// token that is refused does not end an authentication that is valid.
	Err error
}

// isSame reports whether watchers need no notice. All errors are pointers of this package.
func (s AuthState) isSame(was AuthState) bool {
	return s.Status == was.Status && s.Err == was.Err && s.Expires.Equal(was.Expires) &&
		string(s.Claims.Bytes()) == string(was.Claims.Bytes())
}

var (
	errNoTokens   = errors.New("server does not accept a token on the open connection")
	errSuperseded = errors.New("another token was given")
	errEmptyToken = errors.New("socket: auth token: empty")
	errEmpty      = errors.New("empty token")
	errLoggedOut  = errors.New("logged out")
	errOtherToken = errors.New("the client has another token now")
)

// clientMaxExpiry bounds the time until a token expires.
const clientMaxExpiry = 100 * 365 * 24 * time.Hour

// Auth returns the state of the authentication.
func (c *Client) Auth() AuthState { return c.auth.states.load() }

// OnAuth registers f, which is called with every change of the authentication, until off is called.
// It is called as the functions of OnState are.
func (c *Client) OnAuth(f func(AuthState)) (off func()) { return c.auth.states.on(f) }

// AuthStates returns the current state of the authentication and all changes, until the client is
// closed or ctx ends. A caller that is too slow misses the oldest changes.
func (c *Client) AuthStates(ctx context.Context) iter.Seq[AuthState] {
	s, isRefused := c.auth.states.stream(false)
	if isRefused {
		c.streamRefused()
	}
	return values(ctx, s)
}

// Token returns the token in use: the last one that was given, fetched, or set by the server. It is
// empty after Deauthenticate.
func (c *Client) Token() string { return *c.auth.token.Load() }

// WaitAuth waits until the client is connected and authenticated, or the server is known not to
// tell: see [AuthUnknown]. It returns an error that wraps ErrDenied if the client was denied, and
// another error if it is paused, failed or closed, or if ctx ends first.
func (c *Client) WaitAuth(ctx context.Context) error {
	w := newAuthWait()
	err := c.await(ctx, w, func() { c.waitAuth(w) })
	if err != nil && ctx.Err() != nil {
		c.post(clientTask(func() { c.authFeed(authInput{kind: authInCancel, wait: w}) }))
	}
	if err != nil {
		return fmt.Errorf("socket: wait for authentication: %w", err)
	}
	return nil
}

// Authenticate authenticates the client by a token: over the open connection, or by the next one if
// there is none. A client that was denied or has failed connects immediately. Later connections use
// the token in place of ClientConfig.AuthToken. If AuthTokenFunc is set, they call it instead.
//
// Authenticate returns nil when the server has accepted the token. A token that is refused changes
// nothing: the error is the server's reply, a *push.Error, and wraps ErrDenied unless another
// attempt may help. A connection changes only between anonymous and one user: call Deauthenticate
// before another user logs in.
//
// If ctx ends first, or the client is paused, the token is still used. A server that does not have
// the channel $socket accepts it only for later connections, and Authenticate returns an error.
func (c *Client) Authenticate(ctx context.Context, token string) error {
	if token == "" {
		return fmt.Errorf("socket: authenticate: %w", errEmpty)
	}
	if err := c.callAuth(ctx, token); err != nil {
		return fmt.Errorf("socket: authenticate: %w", err)
	}
	return nil
}

// Deauthenticate logs the client out, over the open connection if there is one. Later connections
// use no token, and AuthTokenFunc is not called, until Authenticate is called. A server that does
// not accept anonymous clients then closes the connection, and the client is denied.
func (c *Client) Deauthenticate(ctx context.Context) error {
	if err := c.callAuth(ctx, ""); err != nil {
		return fmt.Errorf("socket: deauthenticate: %w", err)
	}
	return nil
}

func (c *Client) callAuth(ctx context.Context, token string) error {
	w := newAuthWait()
	return c.await(ctx, w, func() { c.authCalled(&authCall{token: token, waits: []*authWait{w}}) })
}

func newAuthWait() *authWait { return &authWait{done: make(chan struct{})} }

// await runs f on the loop and waits for w.
func (c *Client) await(ctx context.Context, w *authWait, f func()) error {
	if c.isClosing.Load() || !c.post(clientTask(f)) {
		return ErrClosed
	}
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	}
}
