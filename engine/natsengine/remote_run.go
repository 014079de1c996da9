package natsengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
)

const (
	// leaderDelay is how long a stream without a leader is left alone.
	leaderDelay = 100 * time.Millisecond

	// attempts is the number of requests that are made within the timeout before the connection is
	// given up. A stream that has just lost its leader does not answer.
	attempts = 4

	// maxChanges bounds the subscriptions that are changed in one step.
	maxChanges = 1024
)

var (
	errNotConnected = errors.New("not connected yet")
	errRunTwice     = errors.New("run was called before")
	errSlow         = errors.New("this node did not keep up")
	errLost         = errors.New("the connection was lost")
	errForeign      = errors.New("a record was stored by a node that knows another stream")
	errVersion      = errors.New("JetStream of nats-server 2.11 or newer is needed")
)

// run connects, and reconnects, until ctx ends. It calls begin first, unless it was called before.
func (l *remote) run(ctx context.Context, begin func()) error {
	l.mu.Lock()
	if l.began {
		l.mu.Unlock()
		return fmt.Errorf("natsengine: %w", errRunTwice)
	}
	l.began, l.open = true, true
	begin()
	l.health.Err = errNotConnected
	l.mu.Unlock()
	broker.Reconnect(ctx, func() (connected bool, reason error) {
		connected, reason = l.session(ctx)
		reason = broker.Redact(reason, l.backend.secrets)
		l.stopSending(cmp.Or(reason, errEnded))
		return connected, reason
	}, l.disconnected)
	l.close()
	l.setHealth(false, ctx.Err())
	l.in.Close(false)
	l.in.Wait()
	return nil
}

// setHealth records whether the log answers, and if not, the reason.
func (l *remote) setHealth(connected bool, reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health.Connected != connected {
		l.health.Connected, l.health.Since = connected, time.Now()
	}
	l.health.Err = reason
}

// disconnected records that a connection was lost or failed. The watches are notified, each once.
func (l *remote) disconnected(reason error, warn bool) {
	l.setHealth(false, reason)
	level := zerolog.DebugLevel
	if warn {
		level = zerolog.WarnLevel
	}
	l.logger.WithLevel(level).Err(reason).Msg(l.what + " unavailable")
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, w := range l.watched {
		l.changed[name] = struct{}{} // the next connection has no subscriptions
		if !w.failed {
			w.failed = true
			l.enqueue(call{watch: w, err: unavailable(reason)}, 0)
		}
	}
}

// session makes one connection and uses it until it ends. It reports whether the log could be used,
// and why the connection ended.
func (l *remote) session(ctx context.Context) (connected bool, err error) {
	c, err := l.backend.connect(ctx, receiver{message: l.message, gap: l.gap, pathChanged: l.gap})
	if err != nil {
		return false, err
	}
	defer c.Close()
	if v := c.nc.ConnectedServerVersion(); tooOld(v) {
		return false, fmt.Errorf("%w: this is %s", errVersion, v)
	}
	if err := c.subscribe(l.replies + ".*"); err != nil {
		return false, err
	}
	l.mu.Lock()
	l.longest = c.MaxMessage()
	l.doubts++
	l.mu.Unlock()
	inner, cancel := context.WithCancel(ctx)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		var failure error
		connected, failure = l.tend(inner, c)
		c.fail(cmp.Or(failure, errEnded))
	}()
	err = l.serve(inner, c)
	cancel()
	c.cut() // no call of the client blocks any longer
	<-tended
	return connected, err
}

// tooOld reports whether a server lacks direct requests for several messages.
func tooOld(version string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(version, "v"), "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < 2 || major == 2 && minor < 11
}

// serve sends requests until the connection is lost or ctx ends.
func (l *remote) serve(ctx context.Context, c *conn) error {
	for {
		if err := l.write(c); err != nil {
			select { // the cause of the client's error
			case cause := <-c.lost:
				return cause
			default:
				return err
			}
		}
		select {
		case <-l.wake:
		case err := <-c.lost:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tend looks after the stream and the subscriptions, until an error or until ctx ends. It reports
// whether the log could be used.
func (l *remote) tend(ctx context.Context, c *conn) (connected bool, err error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := l.check(ctx); err != nil {
			return connected, err
		}
		if err := l.follow(ctx, c); err != nil {
			return connected, err
		}
		if !connected {
			connected = true
			l.reconnected()
		}
		timer.Reset(l.ping)
		for due := false; !due; {
			select {
			case <-timer.C:
				due = true
			case <-l.stir:
				if due = l.mustCheck(); due {
					break
				}
				if err := l.follow(ctx, c); err != nil {
					return connected, err
				}
			case <-ctx.Done():
				return connected, ctx.Err()
			}
		}
	}
}

// reconnected reports a gap if this is not the first connection that could be used.
func (l *remote) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.before {
		l.enqueueGap(errLost)
	}
	l.before = true
}

// mustCheck reports whether the stream must be looked at before the next Ping.
func (l *remote) mustCheck() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ready || l.state.checked.IsZero()
}

// check looks at the stream, and creates or corrects it. While a stream has no leader, it tries
// again for some time.
func (l *remote) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	for {
		attempt, end := context.WithTimeout(ctx, l.timeout/attempts)
		s, err := l.ensure(attempt)
		silent := attempt.Err() != nil
		end()
		switch {
		case err == nil:
			l.update(s)
			return nil
		case ctx.Err() != nil, !silent && !hasCode(err, codeUnavailable, codeNotLeader, codeOffline):
			return err
		}
		broker.Sleep(ctx, leaderDelay)
	}
}

// update makes the stream's state known. Requests may be sent from now on.
func (l *remote) update(s streamState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state
	l.state = s
	if old.epoch != s.epoch || old.leader != s.leader {
		l.doubts++
	}
	close(l.changes)
	l.changes = make(chan struct{})
	l.ready = true
	signal(l.wake)
	if !l.health.Connected {
		l.health.Connected, l.health.Since = true, time.Now()
		l.logger.Info().Str("stream", l.stream).Msg(l.what + " connected")
	}
	l.health.Err = nil
	switch {
	case old.epoch != "" && old.epoch != s.epoch:
		l.logger.Warn().Str("stream", l.stream).Msg("the stream of the " + l.what + " was replaced")
		l.enqueueGap(errNewEpoch)
	case old.foreign:
		l.enqueueGap(errForeign)
	case old.leader != s.leader && old.leader != "":
		l.enqueueGap(errNewLeader) // what it did not send anymore is lost
	}
	l.retryMissed()
}

// follow subscribes to the feeds of the topics whose watch has changed, and notifies the watches.
func (l *remote) follow(ctx context.Context, c *conn) error {
	for {
		names, watches := l.takeChanges()
		if len(names) == 0 {
			return nil
		}
		begun := false
		for i, name := range names {
			subject, change := l.feeds+name, c.unsubscribe
			if watches[i] != nil {
				change, begun = c.subscribe, true
			}
			if err := change(subject); err != nil {
				return err
			}
		}
		if begun {
			if err := l.probe(ctx); err != nil {
				return err
			}
		}
		l.notify(names, watches)
	}
}

// takeChanges returns the tokens whose watch has changed, and their watches. Nil means none.
func (l *remote) takeChanges() (names []string, watches []*watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.changed {
		if len(names) == maxChanges {
			break
		}
		delete(l.changed, name)
		names = append(names, name)
		watches = append(watches, l.watched[name])
	}
	return names, watches
}

// notify calls ready for watches that have not ended.
func (l *remote) notify(names []string, watches []*watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range watches {
		if w == nil || l.watched[names[i]] != w {
			continue
		}
		if w.failed = false; !l.enqueue(call{watch: w}, 0) {
			l.changed[names[i]] = struct{}{} // the next look at the stream tries again
		}
	}
}

// probe waits for an answer of the stream's leader that was requested on the way of messages to the
// stream. The leader feeds each topic to which this connection has subscribed before: subscriptions
// take the same way to its server, and arrive first.
//
// The probe is a message that the stream refuses.
func (l *remote) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	for {
		attempt, end := context.WithTimeout(ctx, l.timeout/attempts)
		answers, err := l.do(attempt, &request{
			subject: l.probes, header: nats.Header{nats.ExpectedStreamHdr: {"(probe)"}}, control: true,
		})
		end()
		switch {
		case err == nil && answers[0].Header.Get(statusHeader) != noResponders:
			return nil
		case ctx.Err() != nil:
			return cmp.Or(err, errNoAnswer)
		}
		broker.Sleep(ctx, leaderDelay)
	}
}
