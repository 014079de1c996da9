package brokertest

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/willcheck"
	"bennu.example/internal/willtimes"
	"bennu.example/key"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
	"bennu.example/will"
)

// WillRole is the value of the flag -role of a process that calls ServeWills.
const WillRole = "will"

// willTimes are shorter than in practice, but a hold is longer than a busy machine stops a process.
var willTimes = willtimes.Times{
	Lease: 3 * time.Second, Renew: 700 * time.Millisecond, Stop: 2400 * time.Millisecond,
	Poll: 700 * time.Millisecond, Hold: 3 * time.Second, Retry: 200 * time.Millisecond,
}

const (
	willEvent    = "gone"
	willRecorded = "rec:" // begins the topics that are recorded
	willLogged   = 100_000
)

// clusterEngine is an engine with all that a node of RunWills needs.
type clusterEngine interface {
	RecordingEngine
	WillEngine
}

// ServeWills is the main function of a node in a process of its own, with the arguments that
// RunWills gives. It ends when its standard input does.
func ServeWills[E clusterEngine](newEngine func(url string, logger *zerolog.Logger) (E, error)) {
	flags := flag.NewFlagSet("", flag.ExitOnError)
	_ = flags.String("role", "", "")
	name := flags.String("name", "", "")
	store := flags.String("store", "", "")
	events := flags.String("events", "", "")
	_ = flags.Parse(os.Args[1:]) // an error exits
	if err := serveWills(newEngine, *name, *store, *events); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", *name, err)
		os.Exit(1)
	}
}

func serveWills[E clusterEngine](
	newEngine func(url string, logger *zerolog.Logger) (E, error), name, store, events string,
) error {
	file, err := os.OpenFile(events, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	rec, nop := willcheck.NewRecorder(file), zerolog.Nop()
	engine, err := newEngine(store, &nop)
	if err != nil {
		return err
	}
	ps := pubsub.NewRecorded(willAdapter{engine.Adapter(), rec, name}, willLog{engine.History(), rec, name},
		history.Rules{willRecorded + "*": {Count: willLogged, Bytes: 100 << 20, MaxReplay: willLogged}})
	handler := socket.NewHandler(socket.Config{
		Channels: channel.Routes{"*": willRooms()}, PubSub: ps, Logger: &nop, Drain: socket.Drain{Notice: -1},
		Wills: &recordedWills{engine.Wills(), rec, name},
		Auth:  &socket.Auth{Anonymous: true, Verify: willVerify},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var running sync.WaitGroup
	var runErr error
	running.Go(func() { runErr = ps.Run(ctx) })
	server := http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)} //nolint:forbidigo // no other type fits
	running.Go(func() { _ = server.Serve(ln) })
	_, _ = fmt.Fprintln(os.Stdout, ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
	shutdown, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	err = handler.Shutdown(shutdown)
	_ = server.Close()
	stop()
	running.Wait()
	for _, other := range []error{runErr, rec.Err()} {
		if err == nil {
			err = other
		}
	}
	return err
}

// willVerify accepts each token as the user.
func willVerify(_ context.Context, token string, _ *socket.Request) (socket.Grant, error) {
	return socket.Grant{ID: token}, nil
}

// willMember is the state of a channel.
type willMember struct{}

// willReply is the reply to a join, and the payload of a will.
type willReply struct {
	Connection string `json:"connection,omitempty"`
	Subject    string `json:"subject,omitempty"`
	Mark       string `json:"mark,omitempty"`
}

// willRooms allows every will, and marks its payload.
func willRooms() *channel.Handler {
	join := func(_ *willMember, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		info, _ := socket.InfoFrom(ctx)
		return willReply{Connection: info.ConnectionID, Subject: info.Subject}, nil
	}
	return channel.Define(join,
		channel.AllowWill(func(_ *willMember, _ context.Context, _ *channel.Channel, _ string, _ serializer.Payload,
		) (serializer.Payload, error) {
			return serializer.Value(willReply{Mark: key.New()}), nil
		}),
		channel.Reauthorize(func(*willMember, context.Context, *channel.Channel) error { return nil }),
		channel.On("ping", func(*willMember, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.OK(nil), nil
		}))
}

// willAdapter records the wills that are broadcast.
type willAdapter struct {
	pubsub.Adapter

	rec  *willcheck.Recorder
	node string
}

func (a willAdapter) Publish(ctx context.Context, node string, b *pubsub.Broadcast) error {
	if b.Event == willEvent {
		var in struct {
			ID string `json:"$id"`
		}
		if err := b.Payload.Decode(&in); err == nil && in.ID != "" {
			a.rec.Add(willcheck.Event{Kind: willcheck.Ran, Node: a.node, Topic: b.Topic, Will: in.ID})
		}
	}
	return a.Adapter.Publish(ctx, node, b)
}

// willLog records the wills that are appended.
type willLog struct {
	history.Log

	rec  *willcheck.Recorder
	node string
}

func (l willLog) Append(ctx context.Context, topic string, r history.Record, k history.Keep) (history.Record, error) {
	if r.Event == willEvent {
		l.rec.Add(willcheck.Event{Kind: willcheck.Ran, Node: l.node, Topic: topic, Will: r.ID})
	}
	return l.Log.Append(ctx, topic, r, k)
}

// recordedWills is a store with willTimes that records what succeeds.
type recordedWills struct {
	will.Store

	rec  *willcheck.Recorder
	node string
}

func (*recordedWills) WillTimes() willtimes.Times { return willTimes }

func (s *recordedWills) event(kind willcheck.Kind, topic string, c *will.Connection) willcheck.Event {
	return willcheck.Event{
		Kind: kind, Node: s.node, Connection: c.ID, Subject: c.Subject, Client: c.ClientID, Topic: topic, Order: c.Order,
	}
}

func (s *recordedWills) Arrive(ctx context.Context, topic string, c will.Connection) (time.Duration, error) {
	s.rec.Add(s.event(willcheck.Arriving, topic, &c))
	return s.Store.Arrive(ctx, topic, c)
}

func (s *recordedWills) Put(ctx context.Context, w will.Will) error {
	e := s.event(willcheck.Setting, w.Topic, &w.Connection)
	var p willReply
	if err := w.Payload.Decode(&p); err != nil {
		return err
	}
	e.Will, e.After, e.Mark = w.ID, w.After, p.Mark
	s.rec.Add(e)
	err := s.Store.Put(ctx, w)
	if err == nil {
		s.rec.Add(willcheck.Event{Kind: willcheck.Set, Node: s.node, Will: w.ID})
	}
	return err
}

func (s *recordedWills) Lease(ctx context.Context, node string, d time.Duration) (bool, error) {
	requested := time.Now().UnixNano()
	kept, err := s.Store.Lease(ctx, node, d)
	if err == nil && d > 0 {
		s.rec.Add(willcheck.Event{At: requested, Kind: willcheck.Renewed, Node: s.node})
	}
	return kept, err
}

// isRecordedTopic reports whether the nodes record what is broadcast on a topic.
func isRecordedTopic(topic string) bool { return strings.HasPrefix(topic, willRecorded) }
