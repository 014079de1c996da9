package longpoll

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"bennu.example/transport"
)

// Config configures a Server. The zero value is useful.
//
// In socket.Config, MaxMessage, MaxQueue and OnSlow are overrides: there, their zero value means
// the value of the socket.Config's field of the same name.
type Config struct {
	// Off disables long polling.
	Off bool
	// Path is appended to the socket's path. Empty means "/longpoll".
	Path string

	// Window is how long a poll waits for messages, and how long the message of a POST may wait
	// to be handled. Zero means 10 s. The session of a client that begins no poll for one and a
	// half to three windows ends.
	Window time.Duration
	// MaxBody bounds the body of a POST, in bytes. Zero means 8,000,000. A larger body is
	// answered with HTTP status 400 and has no effect. The bodies of one session that are in
	// work at the same time are bounded by MaxBody together; further POSTs wait, for at most
	// Window.
	MaxBody int64
	// MaxMessage bounds a message from a client, in bytes. Zero means 1 MiB. A larger message is
	// answered as a body that is too large. It overrides socket.Config.MaxMessage.
	MaxMessage int64
	// MaxQueue bounds the frames that wait for one client, in bytes. Each frame counts as its
	// payload and 64 bytes more. Zero means 1 MiB. The frames that a poll has taken count until
	// they are written. It overrides socket.Config.MaxQueue.
	//
	// Frames that the client's own messages cause have a second budget of this size, see
	// transport.Delivery. While they take more than half of it, no further message of a POST is
	// handled.
	MaxQueue int
	// OnSlow is the policy for frames that find no room within MaxQueue and have no policy of
	// their own. Zero means transport.Disconnect. It overrides socket.Config.OnSlow.
	OnSlow transport.SlowPolicy
	// MaxSessions bounds the sessions. Zero means 100,000. The GET of a client that would begin
	// a further session is answered with HTTP status 503 and Retry-After.
	MaxSessions int
	// TokenMaxAge is how long the token of a session is valid. Zero means 14 days. After that,
	// the client has to begin a new session.
	TokenMaxAge time.Duration
	// Secret signs the tokens. Empty means a random secret. All nodes of a cluster need the same
	// secret. Handlers that serve different sockets need different ones.
	Secret []byte
	// Peers forwards a request to the node of its session, so that a load balancer may send it
	// to any node. It needs a Secret, and should have the same bounds on all nodes. Nil means
	// that sessions of other nodes are unknown.
	Peers Peers
	// PeerTimeout is how long to wait for another node's answer. Zero means 2 s. After that, the
	// session counts as gone.
	PeerTimeout time.Duration

	// OnPanic is called when connect, the function that it returned or Session.Closed panics, with
	// the value and the stack. The request is answered with HTTP status 500. Nil means that the
	// panic is not reported. A panic in Session.Receive ends the session; Closed receives it as a
	// *channel.PanicError.
	OnPanic func(value any, stack []byte)

	// OnDrop is called when Stats.Dropped, Conflated or Slow has increased. It is called under locks:
	// it must not block, and must not call the Server. Package socket sets it if its Config has Hooks.
	OnDrop func()
}

// withDefaults returns c with every zero value replaced.
func (c Config) withDefaults() Config {
	c.Path = cmp.Or(c.Path, "/longpoll")
	c.Window = cmp.Or(c.Window, 10*time.Second)
	c.MaxBody = min(cmp.Or(c.MaxBody, 8_000_000), math.MaxInt/2) // sizes of base64 must not overflow
	c.MaxMessage = min(cmp.Or(c.MaxMessage, 1<<20), c.MaxBody)
	c.MaxQueue = cmp.Or(c.MaxQueue, 1<<20)
	c.MaxSessions = cmp.Or(c.MaxSessions, 100_000)
	c.TokenMaxAge = cmp.Or(c.TokenMaxAge, 14*24*time.Hour)
	c.PeerTimeout = cmp.Or(c.PeerTimeout, 2*time.Second)
	return c
}

// StatusError is an HTTP status to answer with instead of the protocol's own refusal. It is the
// error that refuses a session, or is wrapped by it. Use 500 if the server failed and 503 if the
// client should retry later. The caller sets headers such as Retry-After itself.
type StatusError int

func (e StatusError) Error() string {
	return fmt.Sprintf("longpoll: refused with HTTP status %d", int(e))
}
