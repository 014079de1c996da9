package socket

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/ratelimit"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// topicSocket is the topic of the socket's own channel. A client may join it on every connection.
// It has no subscribers: its events come from the session.
const topicSocket = "$socket"

// Events of the channel $socket.
const (
	eventTime = "time" // from the client: asks for the server's time
)

// Error replies on the channel $socket.
var (
	errRate         = push.Reject("rate")
	errUnknownEvent = push.Reject("unknown event")
)

// maxVersion is the length of a client's version in the log.
const maxVersion = 64

// timeRate bounds the pushes of eventTime: 2 per second, and 8 at once.
var timeRate = ratelimit.Rate{Every: time.Second / 2, Burst: 8 * time.Second / 2}

// socketState is the state of the channel $socket.
type socketState struct {
	s     *session
	c     *channel.Channel
	moves bool // the client opens another connection when it receives advice, before this one ends
	// isAdvised is set before advice is sent.
	isAdvised atomic.Bool
	rates     *ownRates
}

// ownRates bounds the pushes of a connection on $socket. They outlive a membership, so that a
// client which joins again has no more of them.
type ownRates struct {
	mu                   sync.Mutex
	times, tokens, wills ratelimit.Bucket
}

// take takes a token of one of the buckets.
func (o *ownRates) take(b *ratelimit.Bucket, r ratelimit.Rate) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return b.Take(r)
}

// socketParams are the params of a join of the channel $socket.
type socketParams struct {
	Version string `json:"version"`
	Move    bool   `json:"move,omitempty"`
}

// socketReply is the reply to such a join. The client decodes it, too.
type socketReply struct {
	ID      string       `json:"id"`
	Client  string       `json:"client"`
	Now     int64        `json:"now"` // in milliseconds since 1970
	Version string       `json:"version"`
	Limits  socketLimits `json:"limits"`
	Auth    *authReply   `json:"auth,omitempty"`
}

type socketLimits struct {
	Message  int64 `json:"message"`
	Queue    int64 `json:"queue"`
	Channels int   `json:"channels"`
	Topic    int   `json:"topic"`
	Joins    int   `json:"joins"`
	Pushes   int   `json:"pushes"`
	IdleMS   int64 `json:"idle_ms"`
}

// timeReply is the reply to eventTime.
type timeReply struct {
	Now int64 `json:"now"`
}

// socketChannel returns the handler of the channel $socket.
func socketChannel() *channel.Handler {
	return channel.Define((*socketState).join,
		channel.On(eventTime, (*socketState).time),
		channel.On(eventToken, (*socketState).token),
		channel.On(eventWill, (*socketState).will),
		channel.On(eventUnwill, (*socketState).unwill),
		channel.Info((*socketState).logOut),
		channel.Info((*socketState).deny),
		channel.Info((*socketState).tellLate),
		channel.Info((*socketState).tellRefused),
		channel.Info((*socketState).advise),
		channel.OnAny(func(*socketState, context.Context, *channel.Channel, string, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errUnknownEvent
		}),
		channel.Terminate((*socketState).terminate),
		channel.OnSlow[socketState]("", transport.Disconnect), // whatever Config.OnSlow is: no event may be lost
	)
}

func (o *socketState) join(ctx context.Context, c *channel.Channel, p socketParams) (any, error) {
	o.s, o.c, o.moves = sessionFrom(ctx), c, p.Move
	if before := o.s.own.Load(); before != nil {
		o.rates = before.rates
	} else {
		o.rates = new(ownRates)
	}
	o.s.own.Store(o)
	c.OnEnd(func() { o.s.leftOwn(c) })
	info := o.s.info()
	auth := o.s.joinedOwn(c)
	if o.s.phase() == phaseRefused {
		if err := c.Send(tellRefused{}); err != nil {
			return nil, err
		}
	}
	const joined = "client information"
	o.s.logEvent(zerolog.DebugLevel, joined).Str("version", clipTo(p.Version, maxVersion)).Msg(joined)
	return socketReply{
		ID: info.ConnectionID, Client: info.ClientID, Now: time.Now().UnixMilli(), Version: info.Version,
		Limits: socketLimits{
			Message: info.Limits.Message, Queue: info.Limits.Queue, Channels: info.Limits.Channels,
			Topic: info.Limits.Topic, Joins: info.Limits.Joins, Pushes: info.Limits.Pushes,
			IdleMS: info.Limits.Idle.Milliseconds(),
		},
		Auth: auth,
	}, nil
}

func (o *socketState) time(context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
	if !o.rates.take(&o.rates.times, timeRate) {
		return push.NoReply, errRate
	}
	return push.OK(timeReply{time.Now().UnixMilli()}), nil
}
