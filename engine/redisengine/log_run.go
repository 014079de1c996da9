package redisengine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/history"
)

const (
	// maxTopics limits the topics of one command.
	maxTopics = 1024

	// grace is how long Run waits for the answers to what was sent, after its context has ended.
	grace = time.Second
)

var errRunTwice = errors.New("redisengine: run was called before")

// run connects, and reconnects when the connection is lost, until ctx ends. It calls begin first.
func (l *remote) run(ctx context.Context, begin func()) error {
	l.mu.Lock()
	if l.began {
		l.mu.Unlock()
		return errRunTwice
	}
	l.began = true
	begin()
	l.health.Err = errNoConnection
	l.mu.Unlock()
	l.writes.setOpen(true)
	l.reads.setOpen(true)
	broker.Reconnect(ctx, func() (connected bool, reason error) {
		connected, reason = l.session(ctx)
		return connected, broker.Redact(reason, l.cfg.secrets)
	}, l.disconnected)
	l.setHealth(false, errLogNotRunning)
	l.writes.setOpen(false) // what was not sent fails
	l.reads.setOpen(false)
	l.feed.Close(false)
	l.events.Close(false)
	l.feed.Wait()
	l.events.Wait()
	return nil
}

var errNoConnection = fmt.Errorf("%w: not connected yet", history.ErrUnavailable)

// setHealth records whether the server answers, and if not, the reason.
func (l *remote) setHealth(connected bool, reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.health.Connected != connected {
		l.health.Connected, l.health.Since = connected, time.Now()
	}
	l.health.Err = reason
}

// disconnected records why there is no connection, and reports it to the watches and the logger.
func (l *remote) disconnected(reason error, warn bool) {
	level := zerolog.DebugLevel
	if warn {
		level = zerolog.WarnLevel
	}
	l.log.WithLevel(level).Err(reason).Msg(l.what + " unavailable")
	reason = fmt.Errorf("%w: %w", history.ErrUnavailable, reason)
	l.setHealth(false, reason)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.watches {
		if !w.down {
			w.down = true
			l.enqueueReady(w, reason)
		}
	}
}

// logConn is a connection of the log. It consists of three network connections to one server: for
// the feed, for appends, so that WAIT delays nothing else, and for the rest, so that large answers
// delay neither of them and do not count against the server's limit for subscribers. If one of them
// ends, all end.
type logConn struct {
	*conn
	appends rueidis.DedicatedClient
}

func (c *logConn) Close() {
	c.cut()
	c.appends.Close()
	c.conn.Close()
}

// session makes one connection and uses it until it ends. It reports whether the server was usable,
// and why the connection ended.
func (l *remote) session(ctx context.Context) (connected bool, err error) {
	c := &logConn{conn: &conn{backend: l.backend, strict: true}}
	if err := c.open(ctx, l.receive); err != nil {
		return false, err
	}
	c.appends, _ = c.client.Dedicate()
	defer c.Close()
	// The answers to what was sent are waited for, although ctx has ended.
	sending, end := broker.WithGrace(ctx, grace)
	defer end()
	defer context.AfterFunc(sending, c.cut)() // the client may not notice the end of a context
	ready, err := l.begin(ctx, c)
	if err == nil {
		l.begun(ready)
		connected, err = true, l.serve(ctx, sending, c)
	}
	l.mu.Lock()
	l.pending = nil
	l.mu.Unlock()
	if moved := new(movedError); errors.As(err, &moved) {
		l.backend.primary = moved.address(c.conn)
	}
	if errors.Is(err, errReplica) && l.backend.opts.Sentinel.MasterSet == "" {
		ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
		defer cancel()
		l.backend.primary = primaryOf(ctx, c.redis)
	}
	return connected, c.cause(err)
}

// begin prepares a connection: it checks the server and the permissions, and subscribes to the
// watched topics. It returns their watches.
func (l *remote) begin(ctx context.Context, c *logConn) (ready []*watch, err error) {
	if err := l.check(ctx, c); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.pending = make(map[string]struct{}, len(l.watches))
	for topic := range l.watches {
		l.pending[topic] = struct{}{}
	}
	l.mu.Unlock()
	subscribe := c.redis.B().Subscribe().Channel(l.probeChannel()).Build()
	if err := l.do(ctx, c.redis, subscribe); err != nil {
		return nil, err
	}
	if err := l.rehearse(ctx, c); err != nil {
		return nil, err
	}
	if err := l.probe(ctx, c); err != nil {
		return nil, err
	}
	for more := true; more; {
		var some []*watch
		if some, more, err = l.changeTopics(ctx, c); err != nil {
			return nil, err
		}
		ready = append(ready, some...)
	}
	return ready, nil
}

// begun reports that a connection is usable, and that the feed of topics has begun.
func (l *remote) begun(ready []*watch) {
	before := l.Health().Err
	l.setHealth(true, nil)
	l.log.Info().Msg(l.what + " connected")
	if l.connected {
		l.gap(fmt.Errorf("the connection was lost: %w", before))
	}
	l.connected = true
	l.notify(ready)
}

// serve uses a connection until ctx ends or the connection fails.
func (l *remote) serve(ctx, sending context.Context, c *logConn) error {
	serving, stop := context.WithCancelCause(ctx)
	var lanes sync.WaitGroup
	for lane, to := range map[*lane]link{
		l.writes: {c.appends.B, c.appends.DoMulti, l.cfg.timeout},
		l.reads:  {c.client.B, c.client.DoMulti, l.cfg.timeout},
	} {
		lanes.Go(func() { stop(lane.serve(serving, sending, to)) })
	}
	err := l.follow(serving, c)
	stop(err)
	err = cmp.Or(context.Cause(serving), err)
	if ctx.Err() == nil && !errors.Is(err, errReplica) {
		c.cut() // so that the lanes do not wait for answers
	}
	lanes.Wait()
	return err
}

// follow sends subscriptions and checks the server, until ctx ends or the connection fails.
func (l *remote) follow(ctx context.Context, c *logConn) error {
	timer := time.NewTimer(l.cfg.ping)
	defer timer.Stop()
	for {
		ready, more, err := l.changeTopics(ctx, c)
		if err != nil {
			return err
		}
		l.notify(ready)
		if more {
			continue
		}
		select {
		case <-l.wake:
		case err := <-c.Lost():
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			l.reportMissed()
			if err := l.check(ctx, c); err != nil {
				return err
			}
			if err := l.probe(ctx, c); err != nil {
				return err
			}
			timer.Reset(l.cfg.ping)
		}
	}
}

// changeTopics subscribes to topics that are watched now, and unsubscribes from those that are not
// anymore. It returns the watches that have begun. It reports more if there were too many at once.
func (l *remote) changeTopics(ctx context.Context, c *logConn) (ready []*watch, more bool, err error) {
	var begin, end []string
	l.mu.Lock()
	for topic := range l.pending {
		if len(begin)+len(end) >= maxTopics {
			more = true
			break
		}
		delete(l.pending, topic)
		if w := l.watches[topic]; w != nil {
			begin, ready = append(begin, l.channel(topic)), append(ready, w)
		} else {
			end = append(end, l.channel(topic))
		}
	}
	l.mu.Unlock()
	var commands []rueidis.Completed
	if len(begin) > 0 {
		commands = append(commands, c.redis.B().Subscribe().Channel(begin...).Build())
	}
	if len(end) > 0 {
		commands = append(commands, c.redis.B().Unsubscribe().Channel(end...).Build())
	}
	return ready, more, l.do(ctx, c.redis, commands...)
}

// do sends commands in one pipeline. It returns the first error.
func (l *remote) do(ctx context.Context, redis rueidis.DedicatedClient, commands ...rueidis.Completed) error {
	if len(commands) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.timeout)
	defer cancel()
	for _, answer := range redis.DoMulti(ctx, commands...) {
		if err := answer.Error(); err != nil {
			return l.late(ctx, err)
		}
	}
	return nil
}

// try sends the commands of a rehearsal. The error is nil if all are permitted, also if the server
// cannot write at the moment.
func (l *remote) try(ctx context.Context, c *logConn, commands ...rueidis.Completed) error {
	for _, answer := range c.appends.DoMulti(ctx, commands...) {
		err := answer.Error()
		switch {
		case err == nil, rueidis.IsRedisNil(err):
		case hasCode(err, "OOM"), hasCode(err, "MISCONF"), hasCode(err, "NOREPLICAS"):
			// Reading works.
		case hasCode(err, "READONLY"):
			return errReplica
		case hasCode(err, "MOVED"):
			return movedTo(err)
		default:
			return l.late(ctx, err)
		}
	}
	return nil
}

// late returns err, or that the server did not answer in time if that is the cause.
func (l *remote) late(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("the server did not answer within %v", l.cfg.timeout)
	}
	return err
}

// watch begins the feed of a topic.
func (l *remote) watch(topic string, ready func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &watch{topic: topic, ready: ready}
	l.watches[topic] = w
	if !l.changed(topic) && l.began && !errors.Is(l.health.Err, errNoConnection) {
		w.down = true
		l.enqueueReady(w, l.health.Err)
	}
}

// unwatch ends the feed of a topic.
func (l *remote) unwatch(topic string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.watches, topic)
	l.changed(topic)
}

// changed schedules the subscription of a topic, or its end. While not connected, it returns false.
// The caller must hold mu.
func (l *remote) changed(topic string) bool {
	if l.pending == nil {
		return false
	}
	l.pending[topic] = struct{}{}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return true
}

// notify reports that the feed of topics has begun.
func (l *remote) notify(watches []*watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range watches {
		w.down = false
		l.enqueueReady(w, nil)
	}
}

// enqueueReady lets ready be called, unless the watch has ended by then. The caller must hold mu.
func (l *remote) enqueueReady(w *watch, reason error) {
	_ = l.events.Enqueue(func() {
		l.mu.Lock()
		current := l.watches[w.topic] == w
		l.mu.Unlock()
		if current {
			w.ready(reason)
		}
	}, 0)
}
