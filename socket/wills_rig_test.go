package socket

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/will"
)

// willStore is a store that can be away.
type willStore struct {
	will.Store

	away atomic.Bool
}

var errAway = errors.New("the store is away")

func newWillStore() *willStore { return &willStore{Store: will.NewMemory()} }

func (s *willStore) err() error {
	if s.away.Load() {
		return errAway
	}
	return nil
}

func (s *willStore) Arrive(ctx context.Context, topic string, c will.Connection) (time.Duration, error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	return s.Store.Arrive(ctx, topic, c)
}

func (s *willStore) Put(ctx context.Context, w will.Will) error {
	return cmpErr(s.err(), func() error { return s.Store.Put(ctx, w) })
}

func (s *willStore) Delete(ctx context.Context, topic string, c will.Connection, ids ...string) error {
	return cmpErr(s.err(), func() error { return s.Store.Delete(ctx, topic, c, ids...) })
}

func (s *willStore) End(ctx context.Context, topic string, c will.Connection, ids ...string) error {
	return cmpErr(s.err(), func() error { return s.Store.End(ctx, topic, c, ids...) })
}

func (s *willStore) Lease(ctx context.Context, node string, d time.Duration) (bool, error) {
	if err := s.err(); err != nil {
		return false, err
	}
	return s.Store.Lease(ctx, node, d)
}

func (s *willStore) Expire(ctx context.Context) error {
	return cmpErr(s.err(), func() error { return s.Store.Expire(ctx) })
}

func (s *willStore) Claim(ctx context.Context, most int, hold time.Duration) ([]will.Will, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Store.Claim(ctx, most, hold)
}

func cmpErr(err error, otherwise func() error) error {
	if err != nil {
		return err
	}
	return otherwise()
}

// willRig is handlers that share a PubSub, with clients in virtual time.
type willRig struct {
	t     *testing.T
	log   *line
	ps    *pubsub.PubSub
	h     []*Handler
	lines []*line
	ends  chan error
	conns int
	run   func(ctx context.Context, w will.Will) error // the RunWill of own:*
}

func newWillRig(t *testing.T, handlers int, cfg Config) *willRig {
	r := &willRig{t: t, log: &line{t: t, log: new(strings.Builder)}, ps: cfg.PubSub, ends: make(chan error, 1000)}
	if r.ps == nil {
		r.ps = pubsub.New(nil)
	}
	logger := zerolog.New(r.log)
	cfg.Logger, cfg.PubSub, cfg.Channels = &logger, r.ps, r.routes()
	for range handlers {
		r.h = append(r.h, NewHandler(cfg))
	}
	return r
}

type willRoom struct{ set int }

// routes returns topics that allow wills, room:*, others, plain:*, and some that run wills, own:*.
func (r *willRig) routes() channel.Routes {
	join := func(*willRoom, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }
	terminate := channel.Terminate(func(_ *willRoom, _ context.Context, _ *channel.Channel, err error) { r.ends <- err })
	allow := func(s *willRoom, _ context.Context, _ *channel.Channel, event string, p serializer.Payload,
	) (serializer.Payload, error) {
		s.set++
		switch event {
		case "count":
			return serializer.Value(map[string]int{"n": s.set}), nil
		case "refused":
			return p, push.Reject("not you")
		case "broken":
			return p, errors.New("broken")
		case "text":
			return serializer.Value("text"), nil
		case "long":
			return serializer.Value(map[string]string{"text": strings.Repeat("x", maxWillPayload)}), nil
		}
		return p, nil
	}
	room := channel.Define(join, terminate, channel.AllowWill(allow), channel.On("become", becomeSubject),
		channel.On("stop", func(*willRoom, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, channel.Stop("enough")
		}),
		channel.On("crash", func(*willRoom, context.Context, *channel.Channel, serializer.Payload) (push.Reply, error) {
			return push.NoReply, errors.New("crash")
		}),
		channel.Reauthorize(func(*willRoom, context.Context, *channel.Channel) error { return push.Reason("no more") }))
	own := channel.Define(join, channel.AllowWill(allow),
		channel.RunWill[willRoom](func(ctx context.Context, w will.Will) error { return r.run(ctx, w) }))
	return channel.Routes{"room:*": room, "plain:*": channel.Define(join, terminate), "own:*": own}
}

// connect opens a connection of a client that has joined $socket and room:1.
func (r *willRig) connect(h int, subject, client string, order uint64) *line {
	r.t.Helper()
	l := r.open(h, subject, client, order)
	l.send(join("1", "$socket"), join("2", "room:1"))
	synctest.Wait()
	if got := strings.Join(l.taken(), "\n"); !strings.Contains(got, accepted("2", "room:1")) {
		r.t.Fatalf("joins: %s", got)
	}
	return l
}

func (r *willRig) open(h int, subject, client string, order uint64) *line {
	l := &line{t: r.t, h: r.h[h], log: new(strings.Builder)}
	r.conns++
	l.s = l.h.open(l, serializer.V2(), identity{
		parent: context.Background(), id: l.h.watch(subject), connection: fmt.Sprint("connection-", r.conns), client: client,
		ownClient: client != "", order: order,
	})
	r.lines = append(r.lines, l)
	return l
}

// observe opens a connection that receives what is broadcast on room:1.
func (r *willRig) observe() *line {
	r.t.Helper()
	l := r.open(len(r.h)-1, "", "", 0)
	l.send(join("1", "room:1"))
	l.want(accepted("1", "room:1"))
	return l
}

// lose ends a connection.
func (r *willRig) lose(l *line, err error) {
	for i, other := range r.lines {
		if other == l {
			r.lines = append(r.lines[:i:i], r.lines[i+1:]...)
			l.s.Closed(err)
		}
	}
}

func (r *willRig) end() {
	for len(r.lines) > 0 {
		r.lose(r.lines[0], nil)
	}
	for _, h := range r.h {
		if err := h.Shutdown(context.Background()); err != nil {
			r.t.Error(err)
		}
	}
}

// taken returns the frames that the client received, with keys as "KEY".
func (l *line) taken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var frames []string
	for _, f := range l.frames {
		frames = append(frames, anyKey.ReplaceAllString(f, "KEY"))
	}
	l.frames = nil
	return frames
}

var anyKey = regexp.MustCompile(`[0-9a-hjkmnp-tv-z]{26}`)

// wantKeys is want with "KEY" for keys.
func (l *line) wantKeys(frames ...string) {
	l.t.Helper()
	synctest.Wait()
	got := l.taken()
	if fmt.Sprint(got) != fmt.Sprint(frames) {
		l.t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(frames, "\n  "))
	}
}

func willPush(ref, topic, event, more string) string {
	return fmt.Sprintf(`["1","%s","$socket","will",{"topic":"%s","event":"%s"%s}]`, ref, topic, event, more)
}

var willSet = socketReplied("1", "9", "ok", `{"will":"KEY"}`)

const willRan = `[null,null,"room:1","gone",{"$id":"KEY","user":"ann"}]`

// setWill sets a will of room:1.
func (l *line) setWill(more string) {
	l.t.Helper()
	l.send(willPush("9", "room:1", "gone", `,"payload":{"user":"ann"}`+more))
	l.wantKeys(willSet)
}

func sleepTo(d time.Duration) {
	time.Sleep(d) // in virtual time
	synctest.Wait()
}

func inWillRig(t *testing.T, handlers int, cfg Config, f func(t *testing.T, r *willRig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newWillRig(t, handlers, cfg)
		defer r.end()
		f(t, r)
	})
}
