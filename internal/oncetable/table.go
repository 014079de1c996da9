// Package oncetable has the pushes that channel.Once has seen, in memory.
package oncetable

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

const (
	defaultIDs = 100_000
	bytesPerID = 1 << 10 // of the replies, on average
	minBytes   = 1 << 20
	costOfID   = 256 // bytes of an id without its reply

	// MaxIDs is the number of keys of one client and topic.
	MaxIDs = 1000
	// MaxBytes is the number of bytes of their replies, in stores outside of the process.
	MaxBytes = 4 << 20
)

// ErrTooMany means that a client has too many keys that are being handled.
var ErrTooMany = errors.New("too many ids")

// Split returns the parts of a key that name the client, and the client and the topic.
func Split(key string) (client, owner string) {
	client, _, _ = strings.Cut(key, ".")
	owner = client
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		owner = key[:i]
	}
	return client, owner
}

// Table implements push.OnceStore. Nothing blocks under its lock.
type Table struct {
	maxIDs, maxBytes int
	removed          func(key string)

	mu      sync.Mutex
	bytes   int // of all replies
	ids     map[string]*tableID
	clients map[string]*client
	owners  map[string]*owner
	seq     uint64    // of the last reply
	due     dueIDs    // all ids; the first to expire is the first
	heavy   heavyOnes // all clients; the one with the largest weight is the first
	evicted uint64    // replies that were dropped because the table was full
}

// New returns a table for a number of keys, and 1 KiB of replies for each of them on average. Zero
// means 100,000 keys. The function removed is called, under the lock of the table, when a key with
// a reply is removed. It may be nil.
func New(ids int, removed func(key string)) *Table {
	if ids <= 0 {
		ids = defaultIDs
	}
	if removed == nil {
		removed = func(string) {}
	}
	return &Table{
		maxIDs: ids, maxBytes: max(ids*bytesPerID, minBytes), removed: removed,
		ids: make(map[string]*tableID), clients: make(map[string]*client), owners: make(map[string]*owner),
	}
}

// tableID is a key.
type tableID struct {
	key    string
	client *client
	owner  *owner
	holder string
	reply  []byte // nil while it is handled
	window time.Duration
	seq    uint64 // of the reply
	until  time.Time
	index  int // in due

	// The places in the lists of the client and of the owner; nil while it is handled.
	ofClient, ofOwner *list.Element
}

// client is a client with at least one id.
type client struct {
	name   string
	ids    int
	done   list.List // of *tableID that have a reply, the one that was used last at the end
	weight int       // bytes of the ids in done
	index  int       // in heavy
}

// owner is a client in one topic, with at least one id.
type owner struct {
	name string
	ids  int
	done list.List // as that of the client
}

func (i *tableID) weight() int { return len(i.reply) + costOfID }

// Begin is part of push.OnceStore.
func (m *Table) Begin(
	_ context.Context, key, holder string, lease time.Duration,
) (mine bool, reply []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	id := m.ids[key]
	switch {
	case id == nil:
		if id, err = m.add(key); err != nil {
			return false, nil, err
		}
		id.holder = holder
	case id.reply != nil:
		id.client.done.MoveToBack(id.ofClient)
		id.owner.done.MoveToBack(id.ofOwner)
		m.keep(id, now.Add(id.window))
		return false, id.reply, nil
	case id.holder != holder:
		return false, nil, nil
	}
	m.keep(id, now.Add(lease))
	return true, nil, nil
}

// Finish is part of push.OnceStore.
func (m *Table) Finish(
	_ context.Context, key, holder string, reply []byte, window time.Duration,
) (counts []byte, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.expire(now)
	id := m.ids[key]
	if id == nil { // the lease ended
		if id, err = m.add(key); err != nil {
			return nil, err
		}
	}
	if id.reply == nil {
		m.seq++
		id.holder, id.reply, id.window, id.seq = holder, reply, window, m.seq
		id.ofClient, id.ofOwner = id.client.done.PushBack(id), id.owner.done.PushBack(id)
		m.bytes += len(reply)
		m.weigh(id.client, id.weight())
		m.keep(id, now.Add(window))
		for m.bytes > m.maxBytes && m.evict() {
		}
	}
	return id.reply, nil
}

// Release is part of push.OnceStore.
func (m *Table) Release(_ context.Context, key, holder string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id := m.ids[key]; id != nil && id.reply == nil && id.holder == holder {
		m.remove(id)
	}
	return nil
}

// Get returns the reply of a key, its window, and its place in the order of the calls of Finish.
// Without a reply, it is nil.
func (m *Table) Get(key string) (reply []byte, window time.Duration, seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id := m.ids[key]; id != nil {
		return id.reply, id.window, id.seq
	}
	return nil, 0, 0
}

// Continue lets the order of the calls of Finish continue after a place.
func (m *Table) Continue(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq = max(m.seq, seq)
}

// Evicted returns the number of replies that were dropped because the store was full.
func (m *Table) Evicted() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.evicted
}

// expire removes the ids whose time has passed.
func (m *Table) expire(now time.Time) {
	for len(m.due) > 0 && !m.due[0].until.After(now) {
		m.remove(m.due[0])
	}
}

// add adds a key without a holder. The caller calls keep. If its owner has the most that it may
// have, its oldest reply is dropped.
func (m *Table) add(key string) (*tableID, error) {
	clientName, ownerName := Split(key)
	if own := m.owners[ownerName]; own != nil && own.ids >= MaxIDs {
		oldest := own.done.Front()
		if oldest == nil {
			return nil, ErrTooMany
		}
		m.remove(oldest.Value.(*tableID))
	}
	for len(m.ids) >= m.maxIDs {
		if !m.evict() {
			return nil, ErrTooMany // all of them are being handled
		}
	}
	in, own := m.clients[clientName], m.owners[ownerName] // perhaps they lost their only id
	if in == nil {
		in = &client{name: clientName}
		m.clients[clientName] = in
		heap.Push(&m.heavy, in)
	}
	if own == nil {
		own = &owner{name: ownerName}
		m.owners[ownerName] = own
	}
	in.ids++
	own.ids++
	id := &tableID{key: key, client: in, owner: own}
	m.ids[key] = id
	heap.Push(&m.due, id)
	return id, nil
}

// keep lets a key expire at a time.
func (m *Table) keep(id *tableID, until time.Time) {
	id.until = until
	heap.Fix(&m.due, id.index)
}

func (m *Table) weigh(c *client, more int) {
	c.weight += more
	heap.Fix(&m.heavy, c.index)
}

// evict drops the oldest reply of the client with the most. It reports false if there is none.
func (m *Table) evict() bool {
	if len(m.heavy) == 0 || m.heavy[0].weight == 0 {
		return false
	}
	m.evicted++
	m.remove(m.heavy[0].done.Front().Value.(*tableID))
	return true
}

func (m *Table) remove(id *tableID) {
	delete(m.ids, id.key)
	heap.Remove(&m.due, id.index)
	in, own := id.client, id.owner
	if id.ofClient != nil {
		in.done.Remove(id.ofClient)
		own.done.Remove(id.ofOwner)
		m.bytes -= len(id.reply)
		m.weigh(in, -id.weight())
		m.removed(id.key)
	}
	if in.ids--; in.ids == 0 {
		delete(m.clients, in.name)
		heap.Remove(&m.heavy, in.index)
	}
	if own.ids--; own.ids == 0 {
		delete(m.owners, own.name)
	}
}

// dueIDs is a heap by the time of expiry.
type dueIDs []*tableID

func (h dueIDs) Len() int           { return len(h) }
func (h dueIDs) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h dueIDs) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueIDs) Push(x any) {
	x.(*tableID).index = len(*h)
	*h = append(*h, x.(*tableID))
}

func (h *dueIDs) Pop() any { return pop((*[]*tableID)(h)) }

// heavyOnes is a heap by weight, the largest first.
type heavyOnes []*client

func (h heavyOnes) Len() int           { return len(h) }
func (h heavyOnes) Less(i, j int) bool { return h[i].weight > h[j].weight }
func (h heavyOnes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *heavyOnes) Push(x any) {
	x.(*client).index = len(*h)
	*h = append(*h, x.(*client))
}

func (h *heavyOnes) Pop() any { return pop((*[]*client)(h)) }

// pop removes the last element of a list and returns it.
func pop[T any](list *[]*T) *T {
	last := len(*list) - 1
	x := (*list)[last]
	(*list)[last] = nil
	*list = (*list)[:last]
	return x
}
