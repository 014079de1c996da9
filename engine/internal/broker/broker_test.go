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
	"bennu.example/pubsub"
	"bennu.example/serializer"
)

func TestPublishToTopicsAndNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b, c := start(t, e, broker.Config{}), start(t, e, broker.Config{}), start(t, e, broker.Config{Name: "web"})
		if !strings.HasPrefix(c.Node(), "web-") || a.Node() == b.Node() {
			t.Errorf("names %s, %s, %s", a.Node(), b.Node(), c.Node())
		}
		a.Subscribe("x")
		b.Subscribe("x")
		synctest.Wait()
		a.mustPublish(t, "x", "1", "2")
		a.mustPublish(t, "y", "without subscribers")
		a.wantReceived(t)
		b.wantReceived(t, "1", "2")
		c.wantReceived(t)
		direct := &pubsub.Broadcast{Topic: "x", Event: "direct"}
		for _, to := range []string{c.Node(), "unknown"} {
			if err := a.Publish(t.Context(), to, direct); err != nil {
				t.Error(err)
			}
		}
		b.wantReceived(t)
		c.wantReceived(t, "direct")
		b.Unsubscribe("x")
		synctest.Wait()
		a.mustPublish(t, "x", "3")
		b.wantReceived(t)
		b.Subscribe("x")
		b.mustPublish(t, "x", "own")
		synctest.Wait()
		a.mustPublish(t, "x", "4")
		a.wantReceived(t, "own")
		b.wantReceived(t, "4")
		h := a.Health()
		if !h.Connected || h.Err != nil || h.Queued != 0 || h.Dropped != 0 || h.Gaps != 0 || h.Since.IsZero() {
			t.Errorf("health %+v", h)
		}
	})
}

// A message that is published after a subscription reaches the engine after it, even if the topics
// do not fit into one batch.
func TestSubscriptionsPrecedeMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a := start(t, e, broker.Config{})
		hold := make(chan struct{})
		e.set(func() { e.conns[0].hold, e.conns[0].batches = hold, nil })
		a.mustPublish(t, "first", "first")
		synctest.Wait()
		a.mustPublish(t, "t1", "queued before")
		for i := range 3000 {
			a.Subscribe(fmt.Sprint("t", i))
		}
		a.Subscribe("left")
		a.Unsubscribe("left")
		a.mustPublish(t, "t2999", "after")
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

// Messages wait while there is no connection. After reconnecting, they are sent in order and after
// all topics. Unacknowledged messages are not sent again, and all nodes report a gap.
func TestReconnectSendsQueuedMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		b.Subscribe("y")
		synctest.Wait()
		e.set(func() { e.conns[0].hold = make(chan struct{}) })
		a.mustPublish(t, "x", "arrives without an answer")
		synctest.Wait()
		a.mustPublish(t, "x", "waits 1", "waits 2")
		advance(5*time.Second + time.Nanosecond)
		b.wantReceived(t, "arrives without an answer")
		advance(time.Second)
		notice := fmt.Sprintf("gap: node %q lost its connection while it was sending", a.Node())
		b.wantReceived(t, notice, "waits 1", "waits 2")
		a.wantReceived(t, "gap: the connection was lost: the engine did not answer within 5s")

		e.stop()
		synctest.Wait()
		if h := b.Health(); h.Connected || h.Err == nil || h.Since != time.Now() {
			t.Errorf("health %+v", h)
		}
		b.Unsubscribe("y")
		b.Subscribe("z")
		a.mustPublish(t, "z", "z")
		a.mustPublish(t, "x", "x")
		advance(time.Minute)
		if h := a.Health(); h.Queued == 0 {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.down = false })
		advance(3 * time.Second)
		a.wantReceived(t, "gap: the connection was lost: the bus is down")
		// No message was being sent, so a sends no notice to b.
		got := b.takeTexts()
		got = slices.DeleteFunc(got, func(s string) bool { return s == "z" || s == "x" }) // missed if b reconnected after a
		if want := []string{"gap: the connection was lost: the bus is down"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		a.mustPublish(t, "x", "1")
		a.mustPublish(t, "y", "2")
		a.mustPublish(t, "z", "3")
		b.wantReceived(t, "1", "3")
		if h := b.Health(); !h.Connected || h.Gaps != 2 {
			t.Errorf("health %+v", h)
		}
		b.mu.Lock()
		if want := []bool{true, false, true}; !slices.Equal(b.changes, want) {
			t.Errorf("Changed was called while connected was %v, want %v", b.changes, want)
		}
		b.mu.Unlock()
	})
}

// The notice of a loss is sent again until it is acknowledged.
func TestLossNoticeIsRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		e.set(func() { e.cuts = 3 })
		a.mustPublish(t, "x", "lost")
		advance(5 * time.Second)
		a.mustPublish(t, "x", "1")
		b.wantReceived(t, fmt.Sprintf("gap: node %q lost its connection while it was sending", a.Node()), "1")
	})
}

// A message of an earlier connection arrives after one of a later connection. It is dropped and
// reported.
func TestDelayedMessageIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		a.mustPublish(t, "x", "1")
		b.wantReceived(t, "1")
		var old broker.Message
		e.set(func() {
			batches := e.conns[0].batches
			old = batches[len(batches)-1].Messages[0]
		})
		advance(2 * time.Second) // an acknowledged probe follows the message
		e.set(func() { e.conns[0].cut() })
		advance(time.Second)
		e.set(func() { e.publish(old) })
		b.wantReceived(t, "1") // no later message arrived, so it is in order; the test itself duplicates it
		a.mustPublish(t, "x", "2")
		synctest.Wait()
		e.set(func() { e.publish(old); e.publish(old) }) // one gap covers both
		b.wantReceived(t, "2", "gap: a delayed message of an earlier connection was dropped")
	})
}

// An engine that does not answer is noticed, even without traffic.
func TestUnresponsiveEngineIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a := start(t, e, broker.Config{Ping: 3 * time.Second, Timeout: 2 * time.Second})
		advance(time.Hour)
		if h := a.Health(); !h.Connected || h.Gaps > 0 {
			t.Errorf("health %+v", h)
		}
		if n := len(e.conns[0].batches); n < 3600/3 || n > 3600*4/9+1 { // each has a probe, after 2.25 to 3 s
			t.Errorf("%d batches in an hour", n)
		}
		e.set(func() { e.unresponsive = true })
		begun := time.Now()
		for a.Health().Connected {
			advance(100 * time.Millisecond)
		}
		if d := time.Since(begun); d > 5*time.Second+100*time.Millisecond {
			t.Errorf("noticed after %v", d)
		}
		advance(10 * time.Second)
		if a.Health().Connected {
			t.Error("connected to an unresponsive engine")
		}
		e.set(func() { e.unresponsive = false })
		advance(5 * time.Second)
		a.wantReceived(t, "gap: the connection was lost: the engine did not answer within 2s")
	})
}

// The delay between attempts to connect grows up to two seconds.
func TestReconnectDelayGrows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := zerolog.New(zerolog.SyncWriter(&log))
		e := &bus{down: true}
		a := start(t, e, broker.Config{Logger: &logger})
		advance(time.Minute)
		if n := len(e.dials); n < 30 || n > 70 {
			t.Errorf("%d attempts in a minute", n)
		}
		for i := 1; i < len(e.dials); i++ {
			d, most := e.dials[i].Sub(e.dials[i-1]), min(50*time.Millisecond<<min(i-1, 10), 2*time.Second)
			if d < most/2 || d > most {
				t.Errorf("attempt %d after %v, want between half of and all of %v", i, d, most)
			}
		}
		if h := a.Health(); h.Connected || !h.Since.IsZero() || !errors.Is(h.Err, errDown) {
			t.Errorf("health %+v", h)
		}
		e.set(func() { e.down = false })
		advance(time.Minute)
		a.wantReceived(t) // the first connection: no gap
		e.set(func() { e.conns[0].cut(); e.dials = nil })
		cut := time.Now()
		advance(time.Second)
		if len(e.dials) != 1 || e.dials[0].Sub(cut) > 50*time.Millisecond {
			t.Errorf("after a long connection: %v", e.dials)
		}
		a.stop()
		if n := strings.Count(log.String(), `"warn"`); n != 3 { // the first attempt failed, the connection was lost, a gap
			t.Errorf("logged\n%s", log.String())
		}
	})
}

func TestQueueIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{down: true}
		a := start(t, e, broker.Config{Queue: 100_000})
		refused := 0
		for range 20 {
			if a.publish("x", strings.Repeat("x", 10_000)) != nil {
				refused++
			}
		}
		if h := a.Health(); refused != 11 || h.Dropped != 11 || h.Queued > 100_000 || h.Queued < 90_000 {
			t.Errorf("%d refused; health %+v", refused, h)
		}
		if a.publish("x", strings.Repeat("x", 100_000)) == nil {
			t.Error("accepted a message that is longer than the queue")
		}
		// Queued messages that turn out to be too long for the engine are dropped, and other nodes are
		// notified.
		e.set(func() { e.down, e.longest = false, 5000 })
		a.mustPublish(t, "x", "short")
		advance(5 * time.Second)
		if h := a.Health(); h.Queued != 0 || h.Dropped != 12+9 {
			t.Errorf("health %+v", h)
		}
		if err := a.publish("x", strings.Repeat("x", 5000)); err == nil {
			t.Error("accepted a message that is too long for the engine")
		}
		if sent := e.conns[0].batches[1].Messages; len(sent) != 3 || sent[0].Channel != "aall" || sent[1].Channel != "tx" {
			t.Errorf("sent %q", sent)
		}
	})
}

// The size of a batch is limited, so that the engine answers within the timeout. Messages that are
// published meanwhile form the next batch.
func TestBatchSizeIsLimited(t *testing.T) {
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
			a.mustPublish(t, "x", want[i])
			synctest.Wait()
		}
		a.mustPublish(t, "x", strings.Repeat("y", 1<<20))
		close(hold)
		b.wantReceived(t, append(want, strings.Repeat("y", 1<<20))...)
		var sizes []int
		for _, batch := range e.conns[0].batches {
			sizes = append(sizes, len(batch.Messages))
		}
		if !slices.Equal(sizes, []int{1, 25, 25, 25, 24, 1}) {
			t.Errorf("batches of sizes %v", sizes)
		}
	})
}

// A slow node misses messages that do not fit into its queue. It reports a gap when half of the
// queue is free again, even if nothing more arrives.
func TestSlowNodeReportsGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{Queue: 10_000})
		b.Subscribe("x")
		synctest.Wait()
		unblock := b.block()
		for i := range 100 {
			a.mustPublish(t, "x", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)))
		}
		unblock()
		got := b.takeTexts()
		if len(got) < 8 || len(got) > 9 {
			t.Errorf("received %d", len(got))
		}
		advance(6 * time.Second)
		b.wantReceived(t, "gap: this node did not keep up")
		a.mustPublish(t, "x", "on")
		b.wantReceived(t, "on")

		unblock = b.block()
		for i := range 100 {
			a.mustPublish(t, "x", fmt.Sprintf("%02d%s", i, strings.Repeat("x", 1000)))
		}
		synctest.Wait()
		e.set(func() { e.conns[1].receiver.Gap(errCut) }) // this gap does not fit either
		unblock()
		synctest.Wait()
		a.mustPublish(t, "x", "more")
		got = b.takeTexts()
		want := []string{"gap: this node did not keep up", "more"}
		if h := b.Health(); !slices.Equal(got[len(got)-2:], want) || h.Gaps != 2 {
			t.Errorf("got %.30q; health %+v", got, h)
		}
		e.set(func() { e.conns[1].receiver.Gap(errCut) })
		b.wantReceived(t, "gap: the connection was cut")
	})
}

func TestMalformedMessagesAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		logger := zerolog.New(zerolog.SyncWriter(&log))
		e := &bus{}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{Logger: &logger})
		b.Subscribe("x")
		synctest.Wait()
		for _, data := range []string{"", "\x01", strings.Repeat("\x00", 100), strings.Repeat("\x03", 21)} {
			e.set(func() { e.publish(broker.Message{Channel: "tx", Data: []byte(data)}) })
		}
		a.mustPublish(t, "x", "1")
		envelope := string(e.conns[0].batches[len(e.conns[0].batches)-1].Messages[0].Data[:21])
		e.set(func() { e.publish(broker.Message{Channel: "tx", Data: []byte(envelope + "malformed")}) })
		a.mustPublish(t, "x", "2")
		b.wantReceived(t, "1", "2")
		if n := strings.Count(log.String(), "malformed message"); n != 1 {
			t.Errorf("logged\n%s", log.String())
		}
	})
}

// Run sends queued messages before it returns, for up to a second. It may be called once.
func TestRunSendsQueueBeforeItReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := &bus{}
		idle := broker.New(e, broker.Config{})
		if idle.Publish(t.Context(), "", &pubsub.Broadcast{Topic: "x"}) == nil || idle.Health().Err == nil {
			t.Error("published before Run")
		}
		a, b := start(t, e, broker.Config{}), start(t, e, broker.Config{})
		b.Subscribe("x")
		synctest.Wait()
		hold := make(chan struct{})
		e.set(func() { e.conns[0].hold = hold })
		a.mustPublish(t, "x", "1")
		synctest.Wait()
		a.mustPublish(t, "x", "2", "3")
		time.AfterFunc(900*time.Millisecond, func() { close(hold) })
		begun := time.Now()
		if err := a.stop(); err != nil || time.Since(begun) != 900*time.Millisecond {
			t.Errorf("Run returned %v after %v", err, time.Since(begun))
		}
		b.wantReceived(t, "1", "2", "3")
		if h := a.Health(); h.Connected || h.Err == nil || h.Queued != 0 {
			t.Errorf("health %+v", h)
		}
		if a.publish("x", "late") == nil || a.Run(t.Context(), pubsub.Inbox{}) == nil {
			t.Error("published or ran again after Run had returned")
		}

		e.set(func() { e.unresponsive = true })
		b.mustPublish(t, "x", "unacknowledged")
		synctest.Wait()
		begun = time.Now()
		b.stop()
		if d := time.Since(begun); d != time.Second {
			t.Errorf("with an unresponsive engine Run returned after %v", d)
		}
	})
}

// Publishing allocates twice: for the message's bytes and for the channel's name.
func TestPublishAllocs(t *testing.T) {
	e := &bus{down: true}
	r := broker.New(e, broker.Config{Queue: 1 << 30})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx, pubsub.Inbox{}) }()
	b := &pubsub.Broadcast{Topic: "topic", Event: "event", Payload: serializer.Binary(make([]byte, 128))}
	for r.Publish(ctx, "", b) != nil { // until Run has begun
		runtime.Gosched()
	}
	if n := testing.AllocsPerRun(10_000, func() { _ = r.Publish(ctx, "", b) }); n > 2 {
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
