package redisengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
	"github.com/rs/zerolog"

	"bennu.example/engine/internal/broker"
	"bennu.example/key"
	"bennu.example/pubsub"
	"bennu.example/will"
)

const (
	// maxWillCalls and maxWillBytes bound the requests that were not answered.
	maxWillCalls = 4096
	maxWillBytes = 16 << 20
	// endedLeases is the number of leases that are read at once.
	endedLeases = 100
)

// wills implements will.Table. It has a connection of its own, which runs with the adapter, and
// which the store of Once uses too.
type wills struct {
	backend  *backend // owned by the goroutine of run
	base     string   // begins the keys; the part in braces keeps them on one server of a Redis Cluster
	cfg      logConfig
	log      zerolog.Logger
	onceBase string // begins the keys of Once
	store    will.Store
	lane     *lane
	wanted   atomic.Bool // Engine.Wills or Engine.Once was called
}

func newWills(b *backend, prefix string, cfg logConfig, logger *zerolog.Logger) *wills {
	w := &wills{
		backend: b, base: "{" + prefix + "}:w:", onceBase: "{" + prefix + "}:q:", cfg: cfg, log: *logger,
	}
	w.lane = newLane(maxWillCalls, maxWillBytes, true)
	w.lane.replicas, w.lane.wait = cfg.wait, min(replicaWait, cfg.timeout/2)
	w.store = will.NewStore(w, 0)
	return w
}

// Wills returns the store for socket.Config.Wills. Every call returns the same store. It has a
// connection of its own while PubSub.Run runs with the engine's Adapter, and needs more permissions
// than the adapter: see the package documentation.
func (e *Engine) Wills() will.Store {
	e.wills.wanted.Store(true)
	return e.wills.store
}

// adapter is the broker, which runs together with the wills.
type adapter struct {
	*broker.Broker

	wills *wills
}

func (a adapter) Run(ctx context.Context, in pubsub.Inbox) error {
	if !a.wills.wanted.Load() {
		return a.Broker.Run(ctx, in)
	}
	return a.RunBeside(ctx, in, a.wills.run)
}

// run connects, and reconnects when the connection is lost, until ctx ends.
func (w *wills) run(ctx context.Context) {
	w.lane.setOpen(true)
	defer w.lane.setOpen(false)
	broker.Reconnect(ctx, func() (bool, error) { return w.session(ctx) }, w.failed)
}

func (w *wills) failed(reason error, warn bool) {
	level := zerolog.DebugLevel
	if warn {
		level = zerolog.WarnLevel
	}
	w.log.WithLevel(level).Err(broker.Redact(reason, w.cfg.secrets)).Msg("store of wills and Once unavailable")
}

// session makes one connection and uses it until it ends.
func (w *wills) session(ctx context.Context) (connected bool, err error) {
	c := &conn{backend: w.backend, strict: true}
	if err := c.open(ctx, func(rueidis.PubSubMessage) {}); err != nil {
		return false, err
	}
	defer c.Close()
	sending, end := broker.WithGrace(ctx, grace)
	defer end()
	defer context.AfterFunc(sending, c.cut)() // the client may not notice the end of a context
	if err = w.check(ctx, c); err == nil {
		connected, err = true, w.serve(ctx, sending, c)
	}
	if moved := new(movedError); errors.As(err, &moved) {
		w.backend.primary = moved.address(c)
	}
	return connected, c.cause(err)
}

// check checks that the server is a primary that answers.
func (w *wills) check(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.timeout)
	defer cancel()
	err := c.Send(ctx, &broker.Batch{Check: true})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the server did not answer within %v", w.cfg.timeout)
	}
	return err
}

// serve uses a connection until ctx ends or the connection fails.
func (w *wills) serve(ctx, sending context.Context, c *conn) error {
	serving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	running.Go(func() {
		stop(w.lane.serve(serving, sending, link{c.client.B, c.client.DoMulti, w.cfg.timeout}))
	})
	for timer := time.NewTimer(w.cfg.ping); serving.Err() == nil; {
		select {
		case <-timer.C:
			if err := w.check(serving, c); err != nil {
				stop(err)
			}
			timer.Reset(w.cfg.ping)
		case err := <-c.Lost():
			stop(err)
		case <-serving.Done():
			timer.Stop()
		}
	}
	err := context.Cause(serving)
	if ctx.Err() == nil && !errors.Is(err, errReplica) {
		c.cut() // so that the lane does not wait for answers
	}
	running.Wait()
	return err
}

// call runs a script and returns its answer.
func (w *wills) call(ctx context.Context, s *script, keys, args []string) ([]rueidis.RedisMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, maxWait)
	defer cancel()
	q := &request{script: s, keys: func() []string { return keys }, args: args}
	for _, text := range args {
		q.size += len(text)
	}
	if err := w.lane.do(ctx, q); err != nil {
		return nil, fmt.Errorf("redisengine: %w", broker.Redact(err, w.cfg.secrets))
	}
	answer, err := q.answers[0].ToArray()
	if err != nil {
		return nil, fmt.Errorf("redisengine: %w", err)
	}
	return answer, nil
}

// isOne calls a script that answers 0 or 1.
func (w *wills) isOne(ctx context.Context, s *script, keys, args []string) (bool, error) {
	answer, err := w.call(ctx, s, keys, args)
	if err != nil {
		return false, err
	}
	if len(answer) != 1 {
		return false, errMalformedWill
	}
	n, err := answer[0].AsInt64()
	return n == 1, err
}

var errMalformedWill = errors.New("redisengine: malformed answer about wills")

func (w *wills) entry(key string) string { return w.base + "e:" + key }
func (w *wills) due() string             { return w.base + "due" }
func (w *wills) leases() string          { return w.base + "leases" }
func (w *wills) node(name string) string { return w.base + "n:" + name }

// Get is part of will.Table.
func (w *wills) Get(ctx context.Context, name string) (e will.Entry, err error) {
	answer, err := w.call(ctx, willGetScript, []string{w.entry(name)}, nil)
	if err != nil {
		return e, err
	}
	if len(answer) != 3 {
		return e, errMalformedWill
	}
	value, err := answer[0].ToString()
	if err != nil {
		return e, err
	}
	if value != "" {
		e.Value = []byte(value)
	}
	if e.Version, err = answer[1].ToString(); err != nil {
		return e, err
	}
	now, err := answer[2].AsInt64()
	e.Now = time.UnixMilli(now)
	return e, err
}

// Swap is part of will.Table.
func (w *wills) Swap(ctx context.Context, name, version string, e will.Entry) (bool, error) {
	at := int64(0)
	if !e.At.IsZero() {
		at = e.At.UnixMilli()
	}
	nodes, err := json.Marshal(append([]string{}, e.Nodes...))
	if err != nil {
		return false, err
	}
	keys := []string{w.entry(name), w.due(), w.leases()}
	return w.isOne(ctx, willSwapScript, keys, []string{
		name, version, key.New(), string(e.Value), strconv.FormatInt(at, 10), string(nodes), w.node(""),
	})
}

// Due is part of will.Table.
func (w *wills) Due(ctx context.Context, most int) ([]string, error) {
	return w.names(w.call(ctx, willDueScript, []string{w.due()}, []string{strconv.Itoa(most)}))
}

// OfNode is part of will.Table.
func (w *wills) OfNode(ctx context.Context, node string, most int) ([]string, error) {
	return w.names(w.call(ctx, willOfNodeScript, []string{w.node(node)}, []string{strconv.Itoa(most)}))
}

func (w *wills) names(answer []rueidis.RedisMessage, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	names := make([]string, len(answer))
	for i := range answer {
		if names[i], err = answer[i].ToString(); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// Lease is part of will.Table.
func (w *wills) Lease(ctx context.Context, node string, d time.Duration) (kept bool, err error) {
	ms := strconv.FormatInt(max(d, 0).Milliseconds(), 10)
	return w.isOne(ctx, willLeaseScript, []string{w.leases()}, []string{node, ms})
}

// Ended is part of will.Table.
func (w *wills) Ended(ctx context.Context) ([]will.Lease, error) {
	args := []string{strconv.Itoa(endedLeases)}
	texts, err := w.names(w.call(ctx, willEndedScript, []string{w.leases()}, args))
	if err != nil {
		return nil, err
	}
	var ended []will.Lease
	for i := 0; i+1 < len(texts); i += 2 {
		end, err := strconv.ParseFloat(texts[i+1], 64)
		if err != nil {
			return nil, errMalformedWill
		}
		ended = append(ended, will.Lease{Node: texts[i], End: time.UnixMilli(int64(end))})
	}
	return ended, nil
}

// Drop is part of will.Table.
func (w *wills) Drop(ctx context.Context, node string) error {
	_, err := w.isOne(ctx, willDropScript, []string{w.leases(), w.node(node)}, []string{node})
	return err
}
