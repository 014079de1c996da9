package socket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/testenv/race"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// TestTokenFlood sends many tokens at once. Verify is called as often as tokenRate allows, the
// other channels go on, and the grant stays.
func TestTokenFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n, joins = 20_000, 20
		l := newAuthLine(t, Auth{}, "ann.1000", nil)
		defer l.end()
		l.joinSocket()
		l.joinRoom("ann/ann.1000/connect")
		verify, calls := l.h.cfg.Auth.Verify, atomic.Int32{}
		l.h.cfg.Auth.Verify = func(ctx context.Context, token string, r *Request) (Grant, error) {
			calls.Add(1)
			return verify(ctx, token, r)
		}
		begun := time.Now()
		for i := range n {
			l.sendToken("3", []string{`"ann.2000"`, `"x"`, `5`, `"bob.5"`}[i%4])
			if i%1000 == 0 {
				time.Sleep(100 * time.Millisecond) // in virtual time
				l.send(`["2","9","room:1","who",{}]`)
			}
		}
		for range joins { // a client that joins again has no more tokens
			synctest.Wait()
			l.send(join("1", "$socket"))
			l.sendToken("3", `"ann.2000"`)
		}
		most := 3 + int32(time.Since(begun)/time.Second)
		frames := l.take()
		if got := calls.Load(); got == 0 || got > most {
			t.Errorf("Verify was called %d times, want at most %d", got, most)
		}
		if rate := countWith(frames, `{"reason":"rate"}`); rate < n+joins-int(most) || len(frames) != n+n/1000+3*joins {
			t.Errorf("%d answers, of which %d are about the rate", len(frames), rate)
		}
		if who := countWith(frames, `"who":"ann/`); who != n/1000 {
			t.Errorf("the room answered %d of %d pushes", who, n/1000)
		}
		if id := l.s.subject(); id != "ann" {
			t.Errorf("the subject is %q", id)
		}
	})
}

// TestNoticesAreSpread checks that clients whose tokens expire together are asked for another one
// over a fifth of the notice.
func TestNoticesAreSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.900", nil)
		sessions := []*session{l.s}
		for range 1999 {
			v, err := newVerified(Grant{ID: "ann", Expires: time.Now().Add(15 * time.Minute)}, 0)
			if err != nil {
				t.Fatal(err)
			}
			sessions = append(sessions, l.h.open(l, serializer.V2(), identity{parent: context.Background(), grant: v}))
		}
		var tenths [10]int
		for _, s := range sessions {
			notice := s.auth.grant.expires.Sub(s.auth.due)
			at := (notice - defaultNotice*9/10) * 10 / (defaultNotice / 5)
			if notice < defaultNotice*9/10 || at > 10 {
				t.Fatalf("a notice of %v", notice)
			}
			tenths[min(at, 9)]++
		}
		if slices.Min(tenths[:]) < 100 {
			t.Errorf("notices %v", tenths)
		}
		for _, s := range sessions[1:] {
			s.Closed(nil)
		}
		l.end()
	})
}

// endingLine is a connection that ends when the server closes it.
type endingLine struct {
	line
	close  sync.Once
	closed atomic.Pointer[transport.CloseError]
	at     time.Time // of closed
	done   chan struct{}
}

func (l *endingLine) Close(code int, reason string) {
	l.close.Do(func() {
		l.at = time.Now()
		err := &transport.CloseError{Code: code, Reason: reason}
		l.closed.Store(err)
		go func() { // as the transports do
			defer close(l.done)
			l.s.Closed(err)
		}()
	})
}

// busyCalls notes when callbacks begin, by subject.
type busyCalls struct {
	mu   sync.Mutex
	last map[string]time.Time
	n    map[string]int
}

func (b *busyCalls) room() *channel.Handler {
	begin := func(ctx context.Context) {
		g, _ := GrantFrom(ctx)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.last[g.ID] = time.Now()
		b.n[g.ID]++
	}
	return channel.Define(func(_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload) (any, error) {
		begin(ctx)
		time.Sleep(2 * time.Millisecond)
		return nil, nil
	}, channel.On("do", func(
		_ *member, ctx context.Context, _ *channel.Channel, _ serializer.Payload,
	) (push.Reply, error) {
		begin(ctx)
		time.Sleep(3 * time.Millisecond) // messages come faster, so that some wait
		return push.OK(nil), nil
	}))
}

// TestRevokeDuringShutdown revokes a user before, during and at the end of a shutdown. No callback
// begins for the user afterwards, the clients are told, and their connections end within a second.
// The shutdown ends as usual.
func TestRevokeDuringShutdown(t *testing.T) {
	t.Parallel()
	for seed := range race.Seeds(40) {
		synctest.Test(t, func(t *testing.T) { revokeDuringShutdown(t, rand.New(rand.NewPCG(uint64(seed), 14))) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func revokeDuringShutdown(t *testing.T, rnd *rand.Rand) {
	pick := func(from ...time.Duration) time.Duration { return from[rnd.IntN(len(from))] }
	calls := &busyCalls{last: map[string]time.Time{}, n: map[string]int{}}
	nop := zerolog.Nop()
	h := NewHandler(Config{
		Channels: channel.Routes{"room:*": calls.room()}, Logger: &nop,
		Auth: &Auth{Verify: func(context.Context, string, *Request) (Grant, error) { return Grant{}, errors.New("no") }},
		Drain: Drain{
			Batch: 1 + rnd.IntN(3), Interval: pick(time.Millisecond, 200*time.Millisecond, time.Second),
			Notice: pick(-1, 100*time.Millisecond, 2*time.Second),
		},
	})
	var lines []*endingLine
	user := map[*endingLine]string{}
	for i := range 6 {
		id := []string{"ann", "bob"}[i%2]
		v, err := newVerified(Grant{ID: id, Expires: time.Now().Add(time.Hour)}, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := &endingLine{line: line{t: t, h: h, log: new(strings.Builder)}, done: make(chan struct{})}
		l.s = h.open(l, serializer.V2(), identity{parent: context.Background(), id: h.watch(id), grant: v})
		lines, user[l] = append(lines, l), id
	}
	var clients sync.WaitGroup
	for i, l := range lines {
		clients.Go(func() {
			if i%3 > 0 {
				l.send(join("1", "$socket"))
			}
			l.send(join("2", "room:1"))
			for n := 0; l.closed.Load() == nil; n++ {
				l.send(fmt.Sprintf(`["2","%d","room:1","do",{}]`, n), fmt.Sprintf(`["2","%d","room:1","do",{}]`, n))
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	var both sync.WaitGroup
	var revoked time.Time
	revokeAt := time.Duration(rnd.IntN(3000)) * time.Millisecond
	shutAt := time.Duration(rnd.IntN(3000)) * time.Millisecond
	both.Go(func() {
		time.Sleep(revokeAt)
		if err := h.Revoke(context.Background(), "ann", "gone"); err != nil {
			t.Error(err)
		}
		revoked = time.Now()
	})
	both.Go(func() {
		time.Sleep(shutAt)
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	both.Wait()
	clients.Wait()
	for i, l := range lines {
		<-l.done
		closed := l.closed.Load()
		isLate := l.at.Sub(revoked) > deniedWait+expiryUnit
		switch {
		case user[l] != "ann":
			if closed.Code != transport.CodeRestart {
				t.Errorf("connection %d of bob: %v", i, closed)
			}
		case isLate:
			t.Errorf("connection %d of ann was open for %v after Revoke", i, l.at.Sub(revoked))
		case l.at.After(revoked):
			want := `["2","2","room:1","phx_close",{"reason":"gone"}]`
			denied := countWith(l.frames, `"denied",{"reason":"gone"}`)
			if countWith(l.frames, want) != 1 || (denied == 1) != (i%3 > 0) {
				t.Errorf("connection %d of ann, %v, was told %d times, and %q", i, closed, denied, l.frames[len(l.frames)-1])
			}
			if last := l.frames[len(l.frames)-1]; denied == 1 && !strings.Contains(last, `"denied"`) {
				t.Errorf("connection %d of ann received %s after it was denied", i, last)
			}
		}
	}
	if calls.last["ann"].After(revoked) || calls.n["ann"] == 0 {
		t.Errorf("a callback for ann began %v after Revoke", calls.last["ann"].Sub(revoked))
	}
}
