package state

import (
	"context"
	"crypto/rand"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/history"
)

// MemoryConfig bounds a Memory. The zero value is useful.
type MemoryConfig struct {
	// MaxBytes bounds the memory of all objects. Beyond it, writes that need more are refused. Zero
	// means 256 MiB.
	MaxBytes int
	// MaxObjects bounds the number of objects. Zero means 100,000.
	MaxObjects int
}

const (
	defaultMaxBytes   = 256 << 20
	defaultMaxObjects = 100_000

	memoryShards = 64
)

// Memory is a Store in the memory of this process. It never discards an object to make room: writes
// fail with ErrQuota instead. Its contents end with the process. It needs no Close, and Objects
// that use it need no Run.
type Memory struct {
	cfg   MemoryConfig
	start time.Time
	base  history.Position // of objects that do not exist
	seed  maphash.Seed

	shards  [memoryShards]memoryShard
	objects atomic.Int64
	bytes   atomic.Int64
	applied atomic.Uint64
	failed  atomic.Uint64
	expiry  memoryExpiry
	removed memoryRemovals

	inboxes atomic.Pointer[[]*Inbox] // a new slice for each change

	mu      sync.Mutex             // guards changes of inboxes, and waiting
	waiting map[string]func(error) // the ready functions of watched objects, until there is an inbox
}

// memoryShard has some of the objects. Its lock is taken after that of an object, and held for the
// map only.
type memoryShard struct {
	mu      sync.RWMutex
	objects map[string]*memoryObject
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(cfg MemoryConfig) *Memory {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = defaultMaxBytes
	}
	if cfg.MaxObjects <= 0 {
		cfg.MaxObjects = defaultMaxObjects
	}
	m := &Memory{cfg: cfg, start: time.Now(), seed: maphash.MakeSeed()}
	m.base, _ = history.NewPosition(newEpoch(), 0, "0000") // the parts are valid
	m.expiry.m = m
	return m
}

// newEpoch returns the epoch of a new object or store.
func newEpoch() string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var b [12]byte
	_, _ = rand.Read(b[:]) // it never fails
	for i := range b {
		b[i] = digits[b[i]%32]
	}
	return string(b[:])
}

func (m *Memory) shard(object string) *memoryShard {
	return &m.shards[maphash.String(m.seed, object)%memoryShards]
}

// lock returns an object with its lock held, or nil. An object whose time has come is removed.
func (m *Memory) lock(object string) *memoryObject {
	s := m.shard(object)
	for {
		s.mu.RLock()
		o := s.objects[object]
		s.mu.RUnlock()
		if o == nil {
			return nil
		}
		o.mu.Lock()
		if !o.gone && o.expiry.isDue(time.Now()) {
			o.remove(ReasonExpired)
		}
		if !o.gone {
			return o
		}
		o.mu.Unlock()
	}
}

// create adds an object, with its lock held. It returns nil if another goroutine was faster.
func (m *Memory) create(object string) (*memoryObject, error) {
	if m.objects.Add(1) > int64(m.cfg.MaxObjects) {
		m.objects.Add(-1)
		return nil, &LimitError{Err: ErrQuota, What: "objects", Max: m.cfg.MaxObjects}
	}
	o := newMemoryObject(m, object)
	o.mu.Lock()
	s := m.shard(object)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[object] != nil {
		m.objects.Add(-1)
		return nil, nil
	}
	if s.objects == nil {
		s.objects = make(map[string]*memoryObject)
	}
	s.objects[object] = o
	return o, nil
}

// forget removes an object, whose lock is held, from the map.
func (m *Memory) forget(o *memoryObject) {
	s := m.shard(o.name)
	s.mu.Lock()
	delete(s.objects, o.name)
	s.mu.Unlock()
	m.objects.Add(-1)
}

// reserve counts n more bytes, which may be negative. It fails if there are too many.
func (m *Memory) reserve(n int) error {
	if m.bytes.Add(int64(n)) > int64(m.cfg.MaxBytes) && n > 0 {
		m.bytes.Add(int64(-n))
		return &LimitError{Err: ErrQuota, What: "store", Max: m.cfg.MaxBytes}
	}
	return nil
}

// Read is part of Store.
func (m *Memory) Read(_ context.Context, object string, r Range, next string, limit int) (Page, error) {
	o := m.lock(object)
	if o == nil {
		return Page{Position: m.base}, nil
	}
	defer o.mu.Unlock()
	return o.read(r, next, limit), nil
}

// Changes is part of Store.
func (m *Memory) Changes(_ context.Context, object string, since history.Position, r Range, limit int) (Page, error) {
	if since.IsZero() {
		return Page{}, history.ErrPosition
	}
	o := m.lock(object)
	if o != nil {
		defer o.mu.Unlock()
		return o.changes(since, r, limit)
	}
	switch {
	case since == m.base:
		return Page{Position: m.base}, nil
	case since.Epoch() == m.base.Epoch():
		return Page{}, history.ErrTag
	}
	return Page{}, history.ErrEpoch
}

// Tops is part of Store.
func (m *Memory) Tops(_ context.Context, objects []string) ([]history.Position, error) {
	tops := make([]history.Position, len(objects))
	for i, name := range objects {
		tops[i] = m.base
		if o := m.lock(name); o != nil {
			tops[i] = o.top
			o.mu.Unlock()
		}
	}
	return tops, nil
}

// Watch is part of Store. A Memory feeds all objects.
func (m *Memory) Watch(object string, ready func(error)) {
	m.mu.Lock()
	if p := m.inboxes.Load(); p == nil || len(*p) == 0 {
		if m.waiting == nil {
			m.waiting = make(map[string]func(error))
		}
		m.waiting[object] = ready
		m.mu.Unlock()
		return
	}
	m.mu.Unlock()
	ready(nil)
}

// Unwatch is part of Store.
func (m *Memory) Unwatch(object string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.waiting, object)
}

// Run is part of Store.
func (m *Memory) Run(ctx context.Context, in Inbox) error {
	defer m.attach(in)()
	<-ctx.Done()
	return nil
}

// attach begins to feed an inbox, and returns a function that ends this. Changes are fed in the
// order of the object, under its lock and before the method that caused them returns.
func (m *Memory) attach(in Inbox) (detach func()) {
	change := func(f func(old []*Inbox) []*Inbox) {
		var old []*Inbox
		if p := m.inboxes.Load(); p != nil {
			old = *p
		}
		all := f(old)
		m.inboxes.Store(&all)
	}
	m.mu.Lock()
	change(func(old []*Inbox) []*Inbox { return append(old[:len(old):len(old)], &in) })
	waiting := m.waiting
	m.waiting = nil
	m.mu.Unlock()
	for _, ready := range waiting {
		ready(nil)
	}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		change(func(old []*Inbox) (rest []*Inbox) {
			for _, p := range old {
				if p != &in {
					rest = append(rest, p)
				}
			}
			return rest
		})
	}
}

// feed is called under the lock of the object.
func (m *Memory) feed(c Change) {
	if p := m.inboxes.Load(); p != nil {
		for _, in := range *p {
			in.Change(c)
		}
	}
}

// Remove is part of Store.
func (m *Memory) Remove(_ context.Context, object, id string) error {
	o := m.lock(object)
	if o != nil {
		defer o.mu.Unlock()
	}
	r := removal{object, id}
	switch {
	case id != "" && m.removed.has(r, time.Now()):
		return nil
	case o == nil:
		return ErrNotFound
	}
	o.remove(ReasonRemoved)
	if id != "" { // before the lock is released, so that a concurrent repetition finds it
		m.bytes.Add(int64(m.removed.add(r, time.Now())))
	}
	return nil
}

// Health is part of Store. A Memory is always connected.
func (m *Memory) Health() history.Health {
	return history.Health{Connected: true, Since: m.start, Appended: m.applied.Load(), Failed: m.failed.Load()}
}
