package natsengine

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"bennu.example/internal/oncetable"
	"bennu.example/push"
)

const (
	// The headers of the stream of Once. A message with a holder is a claim, and one with a window
	// has a reply. One without them is a marker: its subject is free.
	onceHolder = "Bennu-Holder"
	onceWindow = "Bennu-Window" // in nanoseconds
	onceUntil  = "Bennu-Until"  // in milliseconds since 1970, by the servers' clock

	// onceLeast is the number of replies of a client and topic that are kept whatever their size.
	onceLeast = 16
	// onceSwept is the time between two searches of the index for what has expired.
	onceSwept = time.Minute

	// maxOnceIndex bounds the estimated bytes of the index. onceOwnerCost and onceIDCost are those of
	// a client and topic, and of an id in addition to its subject.
	maxOnceIndex  = 64 << 20
	onceOwnerCost = 400
	onceIDCost    = 120
)

// onceStore implements push.OnceStore by a stream, which has the newest message of each subject, as
// that of the wills does: each change is a compare-and-swap. It uses the connection of the wills.
// It follows the stream, without the replies, to know how many ids a client and topic has. Only the
// limits of a client and topic depend on this index, which may forget some.
type onceStore struct {
	wills  *wills
	prefix string // of the subjects
	stream string
	wanted atomic.Bool // Engine.Once was called

	mu     sync.Mutex
	owners map[string]*onceOwner // by subject without the last token
	recent list.List             // of the owners, the one that changed last at the end
	size   int                   // estimated bytes of the index
	room   int                   // their bound; what is beyond is forgotten
	swept  time.Time
}

// onceOwner is a client in one topic.
type onceOwner struct {
	name  string
	ids   map[string]*onceIndex // by subject; there is one at least
	place *list.Element
}

// onceIndex is what is known of an id.
type onceIndex struct {
	seq    uint64
	size   int
	isDone bool // it has a reply
	until  time.Time
}

// onceValue is an id in the stream.
type onceValue struct {
	seq    uint64 // zero means that there is no message
	holder string
	reply  []byte
	window time.Duration
	until  time.Time
}

// Once returns the store for push.OnceConfig. Every call returns the same store. It needs JetStream
// and a nats-server of version 2.11 or newer. It has a connection, which it shares with Wills,
// while PubSub.Run runs with the engine's Adapter.
func (e *Engine) Once() push.OnceStore {
	e.wills.once.wanted.Store(true)
	e.wills.wanted.Store(true)
	return e.wills.once
}

func newOnceStore(w *wills, prefix string) *onceStore {
	return &onceStore{wills: w, prefix: prefix + ".q.", stream: streamName(prefix) + "-once", room: maxOnceIndex}
}

// open makes the stream, and follows it until the connection ends. It returns when the index is
// complete.
func (o *onceStore) open(ctx context.Context, c *conn, js nats.JetStreamContext) error {
	if err := ensureLast(js, o.stream, o.prefix, o.wills.replicas); err != nil {
		return err
	}
	o.mu.Lock()
	o.owners, o.size, o.swept = make(map[string]*onceOwner), 0, time.Now()
	o.recent.Init()
	o.mu.Unlock()
	ack, err := js.Publish(o.prefix+"t", nil)
	if err != nil {
		return err
	}
	complete := make(chan struct{})
	finish := sync.OnceFunc(func() { close(complete) })
	_, err = js.Subscribe(o.prefix+">", func(m *nats.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		v := parseOnce(m.Header, nil, meta.Sequence.Stream)
		size, _ := strconv.Atoi(m.Header.Get(nats.MsgSize))
		o.note(m.Subject, v, size)
		if v.seq >= ack.Sequence {
			finish()
		}
	}, nats.OrderedConsumer(), nats.DeliverLastPerSubject(), nats.HeadersOnly(), nats.BindStream(o.stream))
	if err != nil {
		return err
	}
	timer := time.NewTimer(o.wills.backend.timeout)
	defer timer.Stop()
	select {
	case <-complete:
		return nil
	case err := <-c.Lost():
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("the stream was not read within %v", o.wills.backend.timeout)
	}
}

func parseOnce(h nats.Header, data []byte, seq uint64) onceValue {
	v := onceValue{seq: seq, holder: h.Get(onceHolder)}
	until, err := strconv.ParseInt(h.Get(onceUntil), 10, 64)
	if err == nil {
		v.until = time.UnixMilli(until)
	}
	if window, err := strconv.ParseInt(h.Get(onceWindow), 10, 64); err == nil {
		v.window, v.reply = time.Duration(window), data
	}
	return v
}

// note notes the newest message of a subject.
func (o *onceStore) note(subject string, v onceValue, size int) {
	name := ownerOf(subject)
	o.mu.Lock()
	defer o.mu.Unlock()
	own := o.owners[name]
	var old *onceIndex
	if own != nil {
		old = own.ids[subject]
	}
	if old != nil && old.seq >= v.seq {
		return
	}
	if v.until.IsZero() {
		if old != nil {
			o.removeLocked(own, subject)
		}
		return
	}
	if own == nil {
		own = &onceOwner{name: name, ids: make(map[string]*onceIndex)}
		own.place = o.recent.PushBack(own)
		o.owners[name] = own
		o.size += onceOwnerCost
	}
	if old == nil {
		o.size += onceIDCost + len(subject)
	}
	own.ids[subject] = &onceIndex{seq: v.seq, size: size, isDone: v.window > 0, until: v.until}
	o.recent.MoveToBack(own.place)
	for o.size > o.room && o.recent.Len() > 1 {
		oldest, _ := o.recent.Front().Value.(*onceOwner)
		for subject := range oldest.ids {
			o.removeLocked(oldest, subject)
		}
	}
}

// removeLocked removes a subject from the index, and its owner if it was the last one.
func (o *onceStore) removeLocked(own *onceOwner, subject string) {
	delete(own.ids, subject)
	o.size -= onceIDCost + len(subject)
	if len(own.ids) == 0 {
		delete(o.owners, own.name)
		o.recent.Remove(own.place)
		o.size -= onceOwnerCost
	}
}

func ownerOf(subject string) string { return subject[:strings.LastIndexByte(subject, '.')] }

func (o *onceStore) subject(key string) string {
	_, owner := oncetable.Split(key)
	return o.prefix + token(owner) + "." + token(key[min(len(owner), len(key)):])
}

// sweep forgets what has expired, now and then. The stream removes it by itself.
func (o *onceStore) sweep(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.swept) < onceSwept {
		return
	}
	o.swept = time.Now()
	for _, own := range o.owners {
		o.expireLocked(own, now)
	}
}

func (o *onceStore) expireLocked(own *onceOwner, now time.Time) {
	for subject, i := range own.ids {
		if !i.until.After(now) {
			o.removeLocked(own, subject)
		}
	}
}

// knows reports whether the index has a subject.
func (o *onceStore) knows(subject string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	own := o.owners[ownerOf(subject)]
	return own != nil && own.ids[subject] != nil
}

// surplus returns the replies to drop so that there is room for some more ids, those that were used
// longest ago first. It reports false if there is no room.
func (o *onceStore) surplus(subject string, more int, now time.Time) (drop map[string]uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	own := o.owners[ownerOf(subject)]
	if own == nil {
		return nil, true
	}
	bytes, ids := 0, own.ids
	for _, i := range ids {
		bytes += i.size
	}
	if len(ids)+more <= oncetable.MaxIDs && bytes <= oncetable.MaxBytes {
		return nil, true
	}
	o.expireLocked(own, now)
	var done []string
	bytes = 0
	for name, i := range ids {
		if bytes += i.size; i.isDone {
			done = append(done, name)
		}
	}
	slices.SortFunc(done, func(a, b string) int { return cmp.Compare(ids[a].seq, ids[b].seq) })
	drop = make(map[string]uint64)
	for _, name := range done {
		left := len(ids) - len(drop)
		isLarge := bytes > oncetable.MaxBytes && len(done)-len(drop) > onceLeast
		if left+more <= oncetable.MaxIDs && !isLarge {
			break
		}
		drop[name] = ids[name].seq
		bytes -= ids[name].size
	}
	return drop, len(ids)-len(drop)+more <= oncetable.MaxIDs
}

// makeRoom drops what surplus returns.
func (o *onceStore) makeRoom(ctx context.Context, subject string, more int, now time.Time) error {
	drop, ok := o.surplus(subject, more, now)
	for name, seq := range drop {
		// If it was used meanwhile, another one is dropped next time.
		if _, err := o.replace(ctx, name, onceValue{seq: seq}, now); err != nil {
			return err
		}
	}
	if !ok {
		return push.ErrTooManyIDs
	}
	return nil
}

// read returns the newest message of a subject, if it has not expired, and the time.
func (o *onceStore) read(ctx context.Context, subject string) (v onceValue, now time.Time, err error) {
	js, now, err := o.wills.connection(ctx)
	if err != nil {
		return v, now, err
	}
	m, err := js.GetLastMsg(o.stream, subject)
	switch {
	case errors.Is(err, nats.ErrMsgNotFound):
		return v, now, nil
	case err != nil:
		return v, now, o.wills.wrap(err)
	}
	if v = parseOnce(m.Header, m.Data, m.Sequence); !v.until.After(now) {
		v = onceValue{seq: m.Sequence}
	}
	return v, now, nil
}

// replace publishes a message if the newest one of its subject is that of v.seq. A value without a
// holder and a window frees the subject.
func (o *onceStore) replace(ctx context.Context, subject string, v onceValue, now time.Time) (bool, error) {
	js, _, err := o.wills.connection(ctx)
	if err != nil {
		return false, err
	}
	m := nats.NewMsg(subject)
	ttl := willMarker
	if v.holder != "" || v.window > 0 {
		if v.holder != "" {
			m.Header.Set(onceHolder, v.holder)
		}
		if v.window > 0 {
			m.Header.Set(onceWindow, strconv.FormatInt(int64(v.window), 10))
		}
		m.Header.Set(onceUntil, strconv.FormatInt(v.until.UnixMilli(), 10))
		m.Data = v.reply
		ttl = v.until.Sub(now).Truncate(time.Second) + 2*time.Second // the servers count in seconds
	}
	ack, err := js.PublishMsg(m, nats.ExpectLastSequencePerSubject(v.seq), nats.RetryAttempts(0), nats.MsgTTL(ttl))
	var refused *nats.APIError
	if errors.As(err, &refused) && (refused.ErrorCode == codeWrongLast || refused.ErrorCode == codeWrongLastConstant) {
		return false, nil
	}
	if err != nil {
		return false, o.wills.wrap(err)
	}
	v.seq = ack.Sequence
	o.note(subject, v, len(v.reply))
	return true, nil
}

// change replaces the value of a key by the one that f returns, until nobody else has replaced it
// meanwhile. If write is false, f has finished without one.
func (o *onceStore) change(
	ctx context.Context, key string, known bool,
	f func(v onceValue, now time.Time) (next onceValue, write bool, err error),
) error {
	subject := o.subject(key)
	for first := true; ; first = false {
		var v onceValue
		_, now, err := o.wills.connection(ctx)
		if !first || known || o.knows(subject) { // otherwise it probably is new
			v, now, err = o.read(ctx, subject)
		}
		if err != nil {
			return err
		}
		next, write, err := f(v, now)
		if err != nil || !write {
			return err
		}
		next.seq = v.seq
		if done, err := o.replace(ctx, subject, next, now); done || err != nil {
			return err
		}
	}
}

// Begin is part of push.OnceStore.
func (o *onceStore) Begin(
	ctx context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	err = o.change(ctx, key, false, func(v onceValue, now time.Time) (onceValue, bool, error) {
		mine, reply = false, nil
		switch {
		case v.window > 0:
			reply = v.reply
			v.until = now.Add(v.window)
			return v, true, nil
		case v.holder != "" && v.holder != holder:
			return v, false, nil
		case v.holder == "":
			if err := o.makeRoom(ctx, o.subject(key), 1, now); err != nil {
				return v, false, err
			}
		}
		mine = true
		return onceValue{holder: holder, until: now.Add(lease)}, true, nil
	})
	if err != nil {
		return false, nil, err
	}
	return mine, reply, nil
}

// Finish is part of push.OnceStore.
func (o *onceStore) Finish(
	ctx context.Context, key, _ string, reply []byte, window time.Duration,
) (counts []byte, err error) {
	err = o.change(ctx, key, true, func(v onceValue, now time.Time) (onceValue, bool, error) {
		if v.window > 0 {
			counts = v.reply
			return v, false, nil
		}
		counts = reply
		return onceValue{reply: reply, window: window, until: now.Add(window)}, true, nil
	})
	if err != nil {
		return nil, err
	}
	// An error does not matter: the next call drops the surplus.
	if _, now, err := o.wills.connection(ctx); err == nil {
		_ = o.makeRoom(ctx, o.subject(key), 0, now)
	}
	return counts, nil
}

// Release is part of push.OnceStore.
func (o *onceStore) Release(ctx context.Context, key, holder string) error {
	return o.change(ctx, key, true, func(v onceValue, _ time.Time) (onceValue, bool, error) {
		return onceValue{}, v.window == 0 && v.holder == holder, nil
	})
}
