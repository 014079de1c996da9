package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/pubsub"
)

const (
	// maxTopics and maxBytes limit a batch, so that the engine answers well within the timeout.
	maxTopics = 1024
	maxBytes  = 256 << 10

	// keep is the number of messages for which an empty queue keeps its memory.
	keep = 1024

	// grace is how long Run continues to send queued messages after its context has ended.
	grace = time.Second

	// minDelay and maxDelay limit the delay between attempts to connect. It doubles each time.
	minDelay = 50 * time.Millisecond
	maxDelay = 2 * time.Second
)

// Reconnect calls session until ctx ends. Session uses one connection. It reports whether the
// engine was usable, and why the connection has ended. Then failed is called with the reason. It
// should warn after the first failure, and after each connection that was usable.
func Reconnect(
	ctx context.Context, session func() (connected bool, reason error), failed func(reason error, warn bool),
) {
	for delay, warn := minDelay, true; ctx.Err() == nil; delay = min(2*delay, maxDelay) {
		begun := time.Now()
		connected, reason := session()
		if ctx.Err() != nil {
			return
		}
		failed(reason, warn || connected)
		warn = false
		if connected && time.Since(begun) > maxDelay {
			delay = minDelay
		}
		// The jitter keeps nodes that lost the engine at the same time from reconnecting at the same
		// time.
		Sleep(ctx, delay/2+rand.N(delay/2))
	}
}

// RunBeside is Run, and calls beside in a goroutine of its own meanwhile. It returns after both
// have ended; the context of beside ends when Run has.
func (b *Broker) RunBeside(ctx context.Context, inbox pubsub.Inbox, beside func(ctx context.Context)) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { beside(ctx) })
	err := b.Run(ctx, inbox)
	cancel()
	running.Wait()
	return err
}

// Run connects to the engine, reconnects when the connection is lost, and delivers what other nodes
// publish, until ctx ends. It then sends what is still queued, for up to a second, and returns nil
// when everything that it started has ended. Run is called at most once.
func (b *Broker) Run(ctx context.Context, inbox pubsub.Inbox) error {
	b.mu.Lock()
	if b.began {
		b.mu.Unlock()
		return fmt.Errorf("%s: %w", b.cfg.Package, errRunTwice)
	}
	b.began, b.open, b.inbox = true, true, inbox
	b.health.Err = errNotConnected
	b.mu.Unlock()

	sending, end := WithGrace(ctx, grace)
	Reconnect(ctx, func() (connected bool, reason error) {
		connected, reason = b.session(ctx, sending)
		return connected, b.redact(reason)
	}, b.disconnected)
	end()
	b.mu.Lock()
	b.open, b.queue, b.used = false, nil, 0 // messages that are still queued are lost
	b.mu.Unlock()
	b.setHealth(false, ctx.Err())
	b.in.Close(false)
	b.in.Wait()
	return nil
}

// WithGrace returns a context that ends d after ctx. Calling end ends it early and waits until its
// goroutine has ended.
func WithGrace(ctx context.Context, d time.Duration) (longer context.Context, end func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
			Sleep(longer, d)
			cancel()
		case <-longer.Done():
		}
	}()
	return longer, func() { cancel(); <-done }
}

// Sleep waits for d, or until ctx ends.
func Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// refuse makes Publish refuse further messages.
func (b *Broker) refuse() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = false
}

// disconnected records that a connection was lost or failed.
func (b *Broker) disconnected(reason error, warn bool) {
	b.setHealth(false, reason)
	level := zerolog.DebugLevel
	if warn {
		level = zerolog.WarnLevel
	}
	b.log.WithLevel(level).Err(reason).Msg("engine not connected")
}

// session makes one connection and uses it until it ends. It reports whether the engine ever
// answered, and why the connection ended.
func (b *Broker) session(ctx, sending context.Context) (connected bool, err error) {
	conn, err := b.backend.Dial(ctx, Receiver{Message: b.receive, Gap: b.gap, PathChanged: b.pathChanged})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	b.prepare(conn.MaxMessage())
	defer b.stopTopics()

	channels := []string{b.backend.Channel(All, "all"), b.backend.Channel(Node, b.node)}
	batch := &Batch{Subscribe: channels, Check: true}
	for done := false; !done; batch.reset() {
		done = b.takeTopics(batch)
		if err := b.send(sending, conn, batch); err != nil {
			return false, err
		}
	}
	before := b.Health()
	b.probesConnected()
	defer func() { b.lost = b.probesDisconnected() || b.lost }()
	b.setHealth(true, nil)
	b.log.Info().Msg("engine connected")
	if b.connected {
		b.gap(fmt.Errorf("the connection was lost: %w", before.Err))
	}
	b.connected = true
	return true, b.serve(ctx, sending, conn, batch)
}

// prepare resets the state for a new connection: all topics have to be sent, and messages that the
// connection cannot carry are dropped.
func (b *Broker) prepare(longest int) {
	b.epoch++
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = maps.Clone(b.want)
	b.longest = longest
	b.sending, b.sent = b.dropTooLong(b.sending[b.sent:]), 0
	b.queue = b.dropTooLong(b.queue)
}

// dropTooLong removes messages that the connection cannot carry. The caller holds mu.
func (b *Broker) dropTooLong(queue []Message) []Message {
	return slices.DeleteFunc(queue, func(m Message) bool {
		if b.fits(m) {
			return false
		}
		b.used -= m.size()
		b.health.Dropped++
		b.lost = true
		return true
	})
}

// stopTopics ends the recording of changed topics, since the connection has ended.
func (b *Broker) stopTopics() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pending = nil
}

// serve sends what is queued until the connection is lost, or until ctx has ended and the queue is
// empty.
func (b *Broker) serve(ctx, sending context.Context, conn Conn, batch *Batch) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	checked := time.Now()
	for {
		ending := ctx.Err() != nil
		if ending {
			b.refuse()
		}
		// A probe that is due shortly before a check is sent with the check. The check comes before
		// messages are taken from the queue, because they would be lost if it fails.
		probe, age := b.untilProbe() <= 0, time.Since(checked)
		check := !ending && (age >= b.cfg.Ping || probe && age >= b.cfg.Ping/2)
		if check {
			if err := b.checkProbes(); err != nil {
				return err
			}
			checked = time.Now()
		}
		batch.reset()
		if b.takeTopics(batch) {
			b.addMessages(batch)
		}
		if ending && batch.empty() {
			b.addProbe(batch, kindLast)
			return b.send(sending, conn, batch)
		}
		batch.Check = check
		if probe {
			b.addProbe(batch, kindProbe)
		}
		if batch.empty() && !batch.Check {
			timer.Reset(max(0, b.reportSettled(min(b.untilProbe(), b.cfg.Ping-time.Since(checked)))))
			select {
			case <-timer.C:
				continue
			case err := <-conn.Lost():
				return err
			case <-b.wake:
				continue
			case <-ctx.Done():
				continue
			}
		}
		if err := b.send(sending, conn, batch); err != nil {
			return err
		}
		b.retryMissed()
		b.reportSettled(0)
	}
}

// takeTopics adds changed topics to the batch. If these were all, it also takes the queued messages
// and returns true. So no message is sent before a subscription that was made before it was queued.
func (b *Broker) takeTopics(batch *Batch) (all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for topic := range b.pending {
		if len(batch.Subscribe)+len(batch.Unsubscribe) >= maxTopics {
			return false
		}
		delete(b.pending, topic)
		channel := b.backend.Channel(Topic, topic)
		if _, ok := b.want[topic]; ok {
			batch.Subscribe = append(batch.Subscribe, channel)
		} else {
			batch.Unsubscribe = append(batch.Unsubscribe, channel)
		}
	}
	if b.sent == len(b.sending) {
		clear(b.sending)
		if cap(b.sending) > keep {
			b.sending = nil
		}
		b.sending, b.queue, b.sent = b.queue, b.sending[:0], 0
	}
	return true
}

// addMessages adds the messages that were taken from the queue to the batch, after a notice if
// messages may have been lost.
func (b *Broker) addMessages(batch *Batch) {
	if b.lost {
		notice := append(newEnvelope(kindLost, b.id, len(b.node)), b.node...)
		setEpoch(notice, b.epoch)
		batch.Messages = append(batch.Messages, Message{b.backend.Channel(All, "all"), notice})
		batch.notice = true
	}
	for ; b.sent < len(b.sending); b.sent++ {
		m := b.sending[b.sent]
		size := m.size()
		if batch.size > 0 && batch.size+size > maxBytes {
			return
		}
		batch.size += size
		setEpoch(m.Data, b.epoch)
		batch.Messages = append(batch.Messages, m)
	}
}

// send sends a batch and waits for the answer. Without an answer its messages count as lost.
func (b *Broker) send(ctx context.Context, conn Conn, batch *Batch) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	err := conn.Send(ctx, batch)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the engine did not answer within %v", b.cfg.Timeout)
	}
	b.recordProbe(batch, err)
	b.mu.Lock()
	b.used -= batch.size
	b.mu.Unlock()
	switch {
	case err != nil && batch.size > 0:
		b.lost = true
	case err == nil && batch.notice:
		b.lost = false
	}
	return err
}
