package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
)

func TestTopicsAndNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b, c := start(t, e, broker.Config{}), start(t, e, broker.Config{}), start(t, e, broker.Config{Name: "web"})
		if !strings.HasPrefix(c.Node(), "web-") || a.Node() == b.Node() {
			t.Errorf("named %s, %s, %s", a.Node(), b.Node(), c.Node())
		}
		a.Subscribe("x")
		b.Subscribe("x")
		synctest.Wait()
		mustSay(t, a, "x", "1", "2")
		mustSay(t, a, "y", "nobody")
		a.wants(t)
		b.wants(t, "1", "2")
		c.wants(t)
		if err := errors.Join(a.Publish(c.Node(), "x", body("direct"), 0), a.Publish("nobody", "x", body("direct"), 0)); err != nil {
			t.Error(err)
		}
		b.wants(t)
		c.wants(t, "direct")
		b.Unsubscribe("x")
		synctest.Wait()
		mustSay(t, a, "x", "3")
		b.wants(t)
		b.Subscribe("x")
		mustSay(t, b, "x", "mine")
		synctest.Wait()
		mustSay(t, a, "x", "4")
		a.wants(t, "mine")
		b.wants(t, "4")
		if h := a.Health(); !h.Connected || h.Err != nil || h.Queued != 0 || h.Dropped != 0 || h.Gaps != 0 || h.Since.IsZero() {
			t.Errorf("health %+v", h)
		}
	})
}

// What is published after a subscription reaches the engine after it, though neither waits and there is more than one batch of topics.
func TestSubscriptionsFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a := start(t, e, broker.Config{})
		hold := make(chan struct{})
		e.set(func() { e.conns[0].hold, e.conns[0].batches = hold, nil })
		mustSay(t, a, "first", "first")
		synctest.Wait()
		mustSay(t, a, "t1", "queued before")
		for i := range 3000 {
			a.Subscribe(fmt.Sprint("t", i))
		}
		a.Subscribe("left")
		a.Unsubscribe("left")
		mustSay(t, a, "t2999", "after")
		close(hold)
		synctest.Wait()
		topics := 0
		for i, b := range e.conns[0].batches[1:] {
			topics += len(b.Subscribe)
			if n := len(b.Subscribe) + len(b.Unsubscribe); n > 1024 {
				t.Errorf("batch %d has %d topics", i, n)
			}
			if topics < 3000 && len(b.Messages) > 0 {
				t.Errorf("batch %d has messages after %d topics", i, topics)
			}
		}
		if topics != 3000 || len(e.conns[0].batches) != 4 {
			t.Errorf("%d topics in %d batches", topics, len(e.conns[0].batches))
		}
	})
}

// While there is no connection messages wait. Then they are sent in order, after all topics; what was not answered is not sent again, and all
// are told.
func TestReconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		b.Subscribe("y")
		synctest.Wait()
		e.set(func() { e.conns[0].hold = make(chan struct{}) })
		mustSay(t, a, "x", "arrives without an answer")
		synctest.Wait()
		mustSay(t, a, "x", "waits 1", "waits 2")
		pass(5*time.Second + time.Nanosecond)
		b.wants(t, "arrives without an answer")
		pass(time.Second)
		b.wants(t, fmt.Sprintf("gap: node %q lost its connection while it was sending", a.Node()), "waits 1", "waits 2")
		a.wants(t, "gap: the connection was lost: the engine did not answer within 5s")

		e.stop()
		synctest.Wait()
		if h := b.Health(); h.Connected || h.Err == nil || h.Since != time.Now() {
			t.Errorf("health %+v", h)
		}
		b.Unsubscribe("y")
		b.Subscribe("z")
		mustSay(t, a, "z", "z")
		mustSay(t, a, "x", "x")
		pass(time.Minute)
		if h := a.Health(); h.Queued == 0 {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.down = false })
		pass(3 * time.Second)
		a.wants(t, "gap: the connection was lost: the bus is down") // nothing was under way: b is not told by a
		got := b.heard()
		got = slices.DeleteFunc(got, func(s string) bool { return s == "z" || s == "x" }) // missed if b was later than a
		if want := []string{"gap: the connection was lost: the bus is down"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		mustSay(t, a, "x", "1")
		mustSay(t, a, "y", "2")
		mustSay(t, a, "z", "3")
		b.wants(t, "1", "3")
		if h := b.Health(); !h.Connected || h.Gaps != 2 {
			t.Errorf("health %+v", h)
		}
	})
}

// The others are told until it is certain that they were.
func TestNotice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		e.set(func() { e.cuts = 3 })
		mustSay(t, a, "x", "lost")
		pass(5 * time.Second)
		mustSay(t, a, "x", "1")
		b.wants(t, fmt.Sprintf("gap: node %q lost its connection while it was sending", a.Node()), "1")
	})
}

// A message of an earlier connection that comes after one of a later connection is dropped, and that is told.
func TestStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		mustSay(t, a, "x", "1")
		b.wants(t, "1")
		old := e.conns[0].batches[len(e.conns[0].batches)-1].Messages[0]
		pass(2 * time.Second) // a probe has told that it arrived
		e.set(func() { e.conns[0].cut() })
		pass(time.Second)
		e.set(func() { e.publish(old) })
		b.wants(t, "1") // nothing later came: it is in order, and that it comes twice is this test's doing
		mustSay(t, a, "x", "2")
		synctest.Wait()
		e.set(func() { e.publish(old); e.publish(old) }) // told once, which covers all of them
		b.wants(t, "2", "gap: a message of an earlier connection came late and was dropped")
	})
}

// An engine that does not answer is noticed, without traffic by asking it.
func TestDeaf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a := start(t, e, broker.Config{Ping: 3 * time.Second, Timeout: 2 * time.Second})
		pass(time.Hour)
		if h := a.Health(); !h.Connected || h.Gaps > 0 {
			t.Errorf("health %+v", h)
		}
		if n := len(e.conns[0].batches); n < 3600/3 || n > 3600*4/9+1 { // each has a probe, after 2.25 to 3 s
			t.Errorf("%d batches in an hour", n)
		}
		e.set(func() { e.deaf = true })
		begun := time.Now()
		for a.Health().Connected {
			pass(100 * time.Millisecond)
		}
		if d := time.Since(begun); d > 5*time.Second+100*time.Millisecond {
			t.Errorf("noticed after %v", d)
		}
		pass(10 * time.Second)
		if a.Health().Connected {
			t.Error("connected to a deaf engine")
		}
		e.set(func() { e.deaf = false })
		pass(5 * time.Second)
		a.wants(t, "gap: the connection was lost: the engine did not answer within 2s")
	})
}

// Attempts to connect come at growing intervals, up to two seconds.
func TestBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := zerolog.New(&log)
		e := &bus{down: true}
		a := start(t, e, broker.Config{Logger: &logger})
		pass(time.Minute)
		if n := len(e.dials); n < 30 || n > 70 {
			t.Errorf("%d attempts in a minute", n)
		}
		for i := 1; i < len(e.dials); i++ {
			d, most := e.dials[i].Sub(e.dials[i-1]), min(50*time.Millisecond<<min(i-1, 10), 2*time.Second)
			if d < most/2 || d > most {
				t.Errorf("attempt %d came after %v, more or less than %v", i, d, most)
			}
		}
		if h := a.Health(); h.Connected || !h.Since.IsZero() || !errors.Is(h.Err, errDown) {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.down = false })
		pass(time.Minute)
		a.wants(t) // it was never connected before: no gap
		e.set(func() { e.conns[0].cut(); e.dials = nil })
		cut := time.Now()
		pass(time.Second)
		if len(e.dials) != 1 || e.dials[0].Sub(cut) > 50*time.Millisecond {
			t.Errorf("after a long connection: %v", e.dials)
		}
		a.stop()
		if n := strings.Count(log.String(), `"warn"`); n != 3 { // cannot connect, connection lost, gap
			t.Errorf("logged\n%s", log.String())
		}
	})
}

func TestQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{down: true}
		a := start(t, e, broker.Config{Queue: 100_000})
		refused := 0
		for range 20 {
			if a.say("x", strings.Repeat("x", 10_000)) != nil {
				refused++
			}
		}
		if h := a.Health(); refused != 11 || h.Dropped != 11 || h.Queued > 100_000 || h.Queued < 90_000 {
			t.Errorf("%d refused; health %+v", refused, h)
		}
		if a.say("x", strings.Repeat("x", 100_000)) == nil {
			t.Error("a message fits that is longer than the queue")
		}
		// What turns out to be too long for the engine is dropped and told.
		e.set(func() { e.down, e.longest = false, 5000 })
		mustSay(t, a, "x", "short")
		pass(5 * time.Second)
		if h := a.Health(); h.Queued != 0 || h.Dropped != 12+9 {
			t.Errorf("health %+v", h)
		}
		if err := a.say("x", strings.Repeat("x", 5000)); err == nil {
			t.Error("a message is taken that the engine does not take")
		}
		if sent := e.conns[0].batches[1].Messages; len(sent) != 3 || sent[0].Channel != "aall" || sent[1].Channel != "tx" {
			t.Errorf("sent %q", sent)
		}
	})
}

// A batch is bounded, so that it is answered within the timeout, and what comes meanwhile is the next one.
func TestBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		hold := make(chan struct{})
		e.set(func() { e.conns[0].hold, e.conns[0].batches = hold, nil })
		var want []string
		for i := range 100 {
			want = append(want, fmt.Sprint(i, strings.Repeat("x", 10_000)))
			mustSay(t, a, "x", want[i])
			synctest.Wait()
		}
		mustSay(t, a, "x", strings.Repeat("y", 1<<20))
		close(hold)
		b.wants(t, append(want, strings.Repeat("y", 1<<20))...)
		var sizes []int
		for _, batch := range e.conns[0].batches {
			sizes = append(sizes, len(batch.Messages))
		}
		if !slices.Equal(sizes, []int{1, 25, 25, 25, 24, 1}) {
			t.Errorf("batches of %v", sizes)
		}
	})
}

// A node that does not keep up misses what finds no room, and is told when half of the room is free again, though nothing more comes.
func TestSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{Queue: 10_000})
		b.Subscribe("x")
		synctest.Wait()
		unblock := b.block()
		for i := range 100 {
			mustSay(t, a, "x", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)))
		}
		unblock()
		got := b.heard()
		if len(got) < 8 || len(got) > 9 {
			t.Errorf("%d came", len(got))
		}
		pass(6 * time.Second)
		b.wants(t, "gap: this node did not keep up")
		mustSay(t, a, "x", "on")
		b.wants(t, "on")

		unblock = b.block()
		for i := range 100 {
			mustSay(t, a, "x", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)))
		}
		synctest.Wait()
		e.set(func() { e.conns[1].in.Gap(errCut) }) // no room for that either
		unblock()
		synctest.Wait()
		mustSay(t, a, "x", "more")
		got = b.heard()
		if h := b.Health(); !slices.Equal(got[len(got)-2:], []string{"gap: this node did not keep up", "more"}) || h.Gaps != 2 {
			t.Errorf("got %.30q; health %+v", got, h)
		}
		e.set(func() { e.conns[1].in.Gap(errCut) })
		b.wants(t, "gap: the connection was cut")
	})
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := zerolog.New(&log)
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{Logger: &logger})
		b.Subscribe("x")
		synctest.Wait()
		for _, data := range []string{"", "\x01", strings.Repeat("\x00", 100), strings.Repeat("\x03", 21)} {
			e.set(func() { e.publish(broker.Message{Channel: "tx", Data: []byte(data)}) })
		}
		mustSay(t, a, "x", "1", "garbage", "2")
		b.wants(t, "1", "2")
		if n := strings.Count(log.String(), "no broadcast"); n != 1 {
			t.Errorf("logged\n%s", log.String())
		}
	})
}

// Run sends what waits before it returns, but not for long, and it is called once.
func TestEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		idle := broker.New(e, broker.Config{})
		if idle.Publish("", "x", body("early"), 0) == nil || idle.Health().Err == nil {
			t.Error("a relay that does not run publishes")
		}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		hold := make(chan struct{})
		e.set(func() { e.conns[0].hold = hold })
		mustSay(t, a, "x", "1")
		synctest.Wait()
		mustSay(t, a, "x", "2", "3")
		time.AfterFunc(900*time.Millisecond, func() { close(hold) })
		begun := time.Now()
		if err := a.stop(); err != nil || time.Since(begun) != 900*time.Millisecond {
			t.Errorf("Run returned %v after %v", err, time.Since(begun))
		}
		b.wants(t, "1", "2", "3")
		if h := a.Health(); h.Connected || h.Err == nil || h.Queued != 0 {
			t.Errorf("health %+v", h)
		}
		if a.say("x", "late") == nil || a.Run(t.Context(), broker.Inbox{}) == nil {
			t.Error("a relay that has ended goes on")
		}

		e.set(func() { e.deaf = true })
		mustSay(t, b, "x", "unheard")
		synctest.Wait()
		begun = time.Now()
		b.stop()
		if d := time.Since(begun); d != time.Second {
			t.Errorf("with a deaf engine Run returned after %v", d)
		}
	})
}

// raw is a message's body that costs nothing to pass on.
type raw []byte

func (r *raw) AppendBinary(dst []byte) ([]byte, error) { return append(dst, *r...), nil }

// A message is two allocations: its bytes and its channel's name.
func TestPublishAllocs(t *testing.T) {
	e := &bus{down: true}
	r := broker.New(e, broker.Config{Queue: 1 << 30})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx, broker.Inbox{}) }()
	b := raw(make([]byte, 128))
	for r.Publish("", "topic", &b, len(b)) != nil { // Run has begun in a moment
		runtime.Gosched()
	}
	if n := testing.AllocsPerRun(10_000, func() { _ = r.Publish("", "topic", &b, len(b)) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
	cancel()
	<-done
}

func FuzzEnvelope(f *testing.F) {
	f.Add([]byte{1})
	f.Add(append([]byte{1}, make([]byte, 30)...))
	f.Add(append([]byte{2}, make([]byte, 20)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		again, ok := broker.Reparse(data)
		if ok && !bytes.Equal(again, data) {
			t.Errorf("%x became %x", data, again)
		}
	})
}
