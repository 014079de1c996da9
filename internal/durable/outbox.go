package durable

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/internal/loop"
	"bennu.example/internal/promise"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
)

const (
	defaultCount = 10_000
	defaultBytes = 64 << 20
	defaultAge   = 48 * time.Hour

	// overhead is the size in bytes of an entry in Config.Bytes without its payload.
	overhead = 128
)

// Host is the client as seen by its outbox.
type Host interface {
	// The following methods are safe for concurrent use.

	// Post enqueues a task for the loop. It returns false once the loop has ended.
	Post(t loop.Task) bool
	// Closing returns the reason why no more pushes are accepted, or nil.
	Closing() error
	Log() *zerolog.Logger
	// Clock returns the time, and by how much it is ahead of the machine's clock. If isServer is
	// false, it is the time of the machine.
	Clock() (now time.Time, offset time.Duration, isServer bool)
	// Call enqueues a callback of the client itself.
	Call(f func())
	// Started and Stopped surround the work of a goroutine for which Close waits.
	Started()
	Stopped()

	// The following methods may only be called on the loop, or before it runs.

	Arm(t *loop.Timer, d time.Duration)
	Disarm(t *loop.Timer)
	// BeginEntry registers an entry, whose payload has that many bytes, for the callers of Flush and
	// Progress. EndEntry must be called with its result when the entry has been answered; ok means
	// the status "ok".
	BeginEntry(bytes int) uint64
	EndEntry(n uint64, bytes int, ok bool)
}

// Sender is a channel that is joined. Its method is called on the loop.
type Sender interface {
	// SendDurable sends a push. Attempt.Done must be called with its result, on the loop. It may be
	// called before SendDurable returns.
	SendDurable(a *Attempt)
}

// Outbox has the entries and the mirrors of a client.
type Outbox struct {
	cfg   offline.Config
	host  Host
	began time.Time

	mu        sync.Mutex // held together with no other lock, and over no call of the store
	broken    error      // the store could not be loaded
	seq       uint64     // of the last entry
	count     int        // entries that are not dropped
	bytes     int64      // their size
	entries   map[uint64]*entry
	changes   []*change // that wait for the committer
	undropped []uint64  // entries whose removal failed
	isRunning bool      // the committer
	mirrors   mirrors

	// Owned by the loop.
	topics             map[string]*topic
	expiry             loop.Timer // of the oldest entry
	redrop             loop.Timer // see dropLater
	mirroring          loop.Timer // until changed mirrors are stored
	isStopped, isEnded bool
}

// entry is an entry that was not answered. Its Entry is changed by the loop under Outbox.mu.
type entry struct {
	offline.Entry
	size   int
	answer func(promise.Result) // nil for an entry of an earlier process

	// Owned by the loop.
	topic    *topic
	number   uint64    // from Host.BeginEntry
	isOurs   bool      // made by this process
	isServer bool      // Made is the time of the server
	isStored bool      // with Sent
	isMarked bool      // is being stored with Sent
	isOut    bool      // an attempt has no result
	mayBe    bool      // the server may have received it
	first    time.Time // when this process stored Sent
	due      time.Time // of the next attempt
	fails    int       // attempts in this process that were not final
	crashes  int       // of the server's channel
}

// New returns the outbox of a client with the entries of the store, and the identity's $client. If
// wanted is not empty, that one is used, and otherwise the stored one, or newID's if there is none.
// New calls the store and waits for it. If the store fails, the outbox accepts no entries.
func New(cfg offline.Config, host Host, wanted string, newID func() string) (o *Outbox, clientID string) {
	if cfg.Count <= 0 {
		cfg.Count = defaultCount
	}
	if cfg.Bytes <= 0 {
		cfg.Bytes = defaultBytes
	}
	if cfg.Age <= 0 {
		cfg.Age = defaultAge
	}
	if cfg.MirrorBytes <= 0 {
		cfg.MirrorBytes = defaultMirrorBytes
	}
	o = newOutbox(cfg, host)
	o.expiry.Task, o.redrop.Task, o.mirroring.Task = task(o.sweep), task(o.dropAgain), task(o.storeMirrors)
	id, err := o.load(wanted, newID)
	if err != nil {
		o.broken = storeError(err)
		o.entries, o.topics, o.count, o.bytes = map[uint64]*entry{}, map[string]*topic{}, 0, 0
		o.mirrors = newMirrors()
		host.Log().Error().Err(err).Msg("store of the outbox failed")
		if id == "" {
			id = newID()
		}
	}
	for _, e := range o.inOrder() {
		e.number = host.BeginEntry(len(e.Payload))
		o.watchAge()
	}
	return o, id
}

func newOutbox(cfg offline.Config, host Host) *Outbox {
	return &Outbox{
		cfg: cfg, host: host, began: time.Now(),
		entries: make(map[uint64]*entry), topics: make(map[string]*topic), mirrors: newMirrors(),
	}
}

func newMirrors() mirrors {
	return mirrors{stored: make(map[mirrorKey]*offline.Mirror), open: make(map[mirrorKey]*Mirror)}
}

// kindClient is the Kind of the mirror that has $client.
const kindClient = "$client"

// load purges the store and loads it.
func (o *Outbox) load(wanted string, newID func() string) (clientID string, err error) {
	ctx := context.Background()
	if o.cfg.Store == nil {
		return wanted, fmt.Errorf("%w: Config has none", offline.ErrStore)
	}
	if !o.cfg.KeepOthers {
		if err := o.cfg.Store.Purge(ctx, o.cfg.Identity); err != nil {
			return wanted, err
		}
	}
	stored := ""
	err = o.cfg.Store.Load(ctx, o.cfg.Identity, func(e offline.Entry, m *offline.Mirror) error {
		switch {
		case m == nil:
			o.add(&entry{Entry: e, size: sizeOf(&e), isStored: !e.Sent.IsZero(), mayBe: !e.Sent.IsZero()})
		case m.Topic == "" && m.Kind == kindClient:
			stored = string(m.Value)
		case m.Topic != "":
			o.mirrors.stored[mirrorKey{m.Topic, m.Kind}] = m
			o.mirrors.bytes += sizeOfMirror(m)
		}
		return nil
	})
	if err != nil {
		return wanted, err
	}
	switch {
	case wanted != "":
		return wanted, nil
	case stored != "":
		return stored, nil
	}
	clientID = newID()
	keep := &offline.Mirror{Kind: kindClient, Value: []byte(clientID), Used: time.Now()}
	return clientID, o.cfg.Store.Apply(ctx, o.cfg.Identity, []offline.Op{{Keep: keep}})
}

// add adds an entry that was loaded.
func (o *Outbox) add(e *entry) {
	o.seq = max(o.seq, e.Seq)
	o.count++
	o.bytes += int64(e.size)
	o.entries[e.Seq] = e
	o.enqueue(e)
}

// enqueue appends an entry to the queue of its topic.
func (o *Outbox) enqueue(e *entry) {
	e.topic = o.topicOf(e.Topic)
	e.topic.queue = append(e.topic.queue, e)
}

func sizeOf(e *offline.Entry) int {
	return overhead + len(e.ID) + len(e.Topic) + len(e.Event) + len(e.Payload)
}

// storeError returns an error of the store that wraps offline.ErrStore.
func storeError(err error) error { return fmt.Errorf("%w: %w", offline.ErrStore, err) }

// Add stores a push. When it returns nil, the push is stored, and answer is called with its
// result. It waits for the store. If ctx ends before the store has begun with the push, it is not
// stored.
func (o *Outbox) Add(
	ctx context.Context, topic, event string, payload any, answer func(promise.Result),
) error {
	id, body, err := encode(payload)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	now, _, isServer := o.host.Clock()
	e := &entry{
		Entry:  offline.Entry{ID: id, Topic: topic, Event: event, Payload: body, Made: now},
		answer: answer, isOurs: true, isServer: isServer,
	}
	e.size = sizeOf(&e.Entry)
	c, err := o.put(e)
	if err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if o.withdraw(c) {
			return ctx.Err()
		}
		<-c.done // the store has begun
	}
	return c.err
}

// put enqueues the change that stores a new entry.
func (o *Outbox) put(e *entry) (*change, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.broken != nil:
		return nil, o.broken
	case o.count >= o.cfg.Count || o.bytes+int64(e.size) > o.cfg.Bytes:
		return nil, push.ErrFull
	}
	o.seq++
	e.Seq = o.seq
	o.count++
	o.bytes += int64(e.size)
	stored := e.Entry
	c := &change{op: offline.Op{Put: &stored}, entry: e, kind: changeNew, done: make(chan struct{})}
	o.commitLocked(c)
	return c, nil
}

// withdraw removes the change of a new entry that the committer has not begun with.
func (o *Outbox) withdraw(c *change) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.Index(o.changes, c)
	if i < 0 {
		return false
	}
	o.changes = slices.Delete(o.changes, i, i+1)
	o.releaseLocked(c.entry)
	return true
}

func (o *Outbox) releaseLocked(e *entry) {
	o.count--
	o.bytes -= int64(e.size)
}

// Undelivered returns the entries that were not answered, in the order of Seq.
func (o *Outbox) Undelivered() []offline.Entry {
	list := o.inOrder()
	entries := make([]offline.Entry, len(list))
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, e := range list {
		entries[i] = e.Entry
		entries[i].Payload = slices.Clone(e.Payload)
	}
	return entries
}

// inOrder returns the entries that were not answered.
func (o *Outbox) inOrder() []*entry {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]*entry, 0, len(o.entries))
	for _, seq := range slices.Sorted(maps.Keys(o.entries)) {
		list = append(list, o.entries[seq])
	}
	return list
}

// encode returns the payload as JSON without its $id, and that, or a new one.
func encode(payload any) (id string, body []byte, err error) {
	p, err := serializer.Value(payload).Encoded()
	if err != nil {
		return "", nil, err
	}
	if p.IsBinary() {
		return "", nil, fmt.Errorf("%w: a durable push is an object", serializer.ErrPayload)
	}
	if _, err := p.HasReserved(); err != nil {
		return "", nil, err
	}
	value, rest, found := p.Cut(memberID)
	if !found {
		id = newID()
	} else if value.Decode(&id) != nil || !promise.IsID(id) {
		return "", nil, fmt.Errorf("%w: invalid %s", serializer.ErrPayload, memberID)
	}
	text, err := rest.JSON()
	return id, slices.Clone(text), err
}
