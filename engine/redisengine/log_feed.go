package redisengine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/redis/rueidis"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
	"bennu.example/internal/mailbox"
)

var (
	errSlowNode = errors.New("this node did not keep up")
	errNoFeed   = errors.New("the feed does not deliver what was published")
	errEvicts   = errors.New("the server may evict records: set maxmemory-policy to noeviction, but it is")
)

// fed is a published message of a watched topic.
type fed struct{ topic, data string }

// receive handles a message of a subscribed channel. It does not block.
func (l *remote) receive(m rueidis.PubSubMessage) {
	if m.Channel == l.probeChannel() {
		select {
		case <-l.probed:
		default:
		}
		l.probed <- m.Message // this is the only sender, so there is room
		return
	}
	topic, ok := strings.CutPrefix(m.Channel, l.channel(""))
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueueMissed()
	if l.missed == nil && errors.Is(l.feed.Enqueue(fed{topic, m.Message}, len(topic)+len(m.Message)), mailbox.ErrFull) {
		l.missed = errSlowNode
	}
}

// reportMissed reports a gap that did not fit before, in case nothing more is received.
func (l *remote) reportMissed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueueMissed()
}

// enqueueMissed reports that the node did not keep up, once half of the feed's queue is free. So a
// slow node reports a gap now and then, and not one for each record. The caller must hold mu.
func (l *remote) enqueueMissed() {
	if l.missed != nil && l.feed.Used() <= l.cfg.queue/2 {
		l.enqueueGap(l.missed)
		l.missed = nil
	}
}

// gap reports that records may have been missed.
func (l *remote) gap(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enqueueGap(reason)
}

func (l *remote) enqueueGap(reason error) {
	l.health.Gaps++
	_ = l.events.Enqueue(func() { l.gapped(reason) }, 0)
}

// deliverFed is the function of the feed's mailbox.
func (l *remote) deliverFed(f fed) {
	l.mu.Lock()
	watched := l.watches[f.topic] != nil
	l.mu.Unlock()
	if watched {
		l.fed(f)
	}
	l.reportMissed()
}

// deliver feeds a record.
func (l *recordLog) deliver(f fed) {
	if f.data == "" {
		l.inbox.Forgotten(f.topic)
		return
	}
	r, err := parseFed(f.data)
	if err != nil {
		l.malformed(err)
		return
	}
	l.inbox.Record(f.topic, r)
}

// malformed logs, once, that something else than a record was received.
func (l *remote) malformed(reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.skipped {
		l.skipped = true
		l.log.Warn().Err(reason).Msg("malformed message from Redis skipped; further ones are not logged")
	}
}

// probeChannel is a channel of this node, by which it tests the feed.
func (l *remote) probeChannel() string { return l.prefix + ":p:" + l.id }

// probe publishes on the connection for appends, and waits until the feed has delivered it. So both
// are connected to the same server, and the feed works.
func (l *remote) probe(ctx context.Context, c *logConn) error {
	probe := uuid.NewString()
	publish := c.appends.B().Publish().Channel(l.probeChannel()).Message(probe).Build()
	if err := l.do(ctx, c.appends, publish); err != nil {
		return err
	}
	timer := time.NewTimer(l.cfg.timeout)
	defer timer.Stop()
	for {
		select {
		case got := <-l.probed:
			if got == probe {
				return nil
			}
		case <-timer.C:
			return errNoFeed
		case err := <-c.Lost():
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// check returns an error unless the server is a primary that evicts nothing.
func (l *remote) check(ctx context.Context, c *logConn) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	b := c.client.B
	commands := []rueidis.Completed{
		b().Arbitrary("HELLO").Build(),
		b().Get().Key(l.base()).Build(), // another server may have the keys now
	}
	if !l.warned {
		commands = append(commands, b().ConfigGet().Parameter("maxmemory-policy").Build())
	}
	answers := c.client.DoMulti(ctx, commands...)
	info, err := answers[0].ToMap()
	if err != nil {
		return l.late(ctx, err)
	}
	mode := info["mode"]
	text, _ := mode.ToString()
	if cluster := text == "cluster"; l.cluster.Swap(cluster) != cluster {
		return l.check(ctx, c) // with the keys of this kind of server
	}
	if err := checkRole(answers[0]); err != nil {
		return err
	}
	if err := answers[1].Error(); hasCode(err, "MOVED") && l.cluster.Load() {
		return movedTo(err)
	}
	if len(answers) == 2 {
		return nil
	}
	settings, err := answers[2].AsStrMap()
	if err == nil && settings["maxmemory-policy"] == "" {
		err = errAnswer
	}
	switch _, answered := rueidis.IsRedisErr(err); {
	case err != nil && !answered && !errors.Is(err, errAnswer):
		return l.late(ctx, err)
	case err != nil:
		l.warned = true
		err = broker.Redact(err, l.cfg.secrets)
		l.log.Warn().Err(err).Msg("cannot read maxmemory-policy of Redis: it must be noeviction")
	case settings["maxmemory-policy"] != "noeviction":
		return fmt.Errorf("%w %q", errEvicts, settings["maxmemory-policy"])
	}
	return nil
}

// rehearseScripts runs all scripts on a topic of its own, whose keys expire soon. So missing
// permissions are an error of the connection, and not of an append that is half done.
func (l *recordLog) rehearseScripts(ctx context.Context, c *logConn) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	keys := l.keys("c", l.id, "")
	withID := l.keys("c", l.id, "i")
	r := history.Record{Event: "e"}
	data, err := r.AppendBinary(nil)
	if err != nil {
		return err
	}
	const soon = "1000" // milliseconds, so that the keys outlive the rehearsal
	add := []string{
		freshEpoch(), string(data), history.NewTag(), "1", "9", "1", soon, soon, l.probeChannel(), soon, "1", "1",
	}
	b := c.appends.B
	return l.try(ctx, c,
		b().Arbitrary("SET", l.base(), freshEpoch(), "NX").Build(),
		appendScript.call(b(), true, withID, add),
		appendScript.call(b(), false, withID, add), // finds the ID
		appendScript.call(b(), false, keys, add),   // removes the first record
		readScript.call(b(), true, keys, []string{"", "XRANGE", "1", "+", "1", "1"}),
		readScript.call(b(), false, keys, []string{"", "XREVRANGE", "+", "-", "1", "1"}),
		touchScript.call(b(), true, keys, []string{freshEpoch(), soon}),
		forgetScript.call(b(), true, keys, []string{freshEpoch(), soon, l.probeChannel()}),
		b().Arbitrary("MGET", keys[0]).Build(),
		b().Arbitrary("GET", l.base()).Build(),
		b().Arbitrary("TIME").Build(),
	)
}
