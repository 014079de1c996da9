package push

import (
	"container/heap"
	"container/list"
	"context"
	"strings"
	"sync"
	"time"
)

const (
	defaultIDs   = 100_000
	maxClientIDs = 1000    // of one client
	bytesPerID   = 1 << 10 // of the replies, on average
	minBytes     = 1 << 20
	costOfID     = 256 // bytes of an id without its reply
)

// NewOnceMemory returns a store for the handlers of one process. It keeps that many ids, and 1 KiB
// of replies for each of them on average. If it is full, the client whose ids take the most memory
// loses the oldest of them. Each client may have 1,000 unexpired ids. Zero means 100,000 ids.
func NewOnceMemory(ids int) OnceStore {
	if ids <= 0 {
		ids = defaultIDs
	}
	return &onceMemory{
		maxIDs: ids, maxBytes: max(ids*bytesPerID, minBytes),
		ids: make(map[string]*onceID), clients: make(map[string]*onceClient),
	}
}

// onceMemory is the store of NewOnceMemory. Nothing blocks under its lock.
type onceMemory struct {
	maxIDs, maxBytes int

	mu      sync.Mutex
	bytes   int // of all replies
	ids     map[string]*onceID
	clients map[string]*onceClient
	due     dueIDs    // all ids; the first to expire is the first
	heavy   heavyOnes // all clients; the one with the largest weight is the first
	evicted uint64    // replies that were dropped early
}

// onceID is a key of the store.
type onceID struct {
	key    string
	client *onceClient
	holder string
	reply  []byte // nil while it is handled
	window time.Duration
	until  time.Time
	index  int           // in due
	order  *list.Element // in client.done; nil while it is handled
}

// onceClient is a client with at least one id.
type onceClient struct {
	name   string
	ids    int
	done   list.List // of *onceID that have a reply, the one that was used last at the end
	weight int       // bytes of the ids in done
	index  int       // in heavy
}

func (i *onceID) weight() int { return len(i.reply) + costOfID }

// Begin is part of OnceStore.
func (m *onceMemory) Begin(
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
		id.client.done.MoveToBack(id.order)
		m.keep(id, now.Add(id.window))
		return false, id.reply, nil
	case id.holder != holder:
		return false, nil, nil
	}
	m.keep(id, now.Add(lease))
	return true, nil, nil
}

// Finish is part of OnceStore.
func (m *onceMemory) Finish(
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
		id.holder, id.reply, id.window = holder, reply, window
		id.order = id.client.done.PushBack(id)
		m.bytes += len(reply)
		m.weigh(id.client, id.weight())
		m.keep(id, now.Add(window))
		for m.bytes > m.maxBytes && m.evict() {
		}
	}
	return id.reply, nil
}

// Release is part of OnceStore.
func (m *onceMemory) Release(_ context.Context, key, holder string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id := m.ids[key]; id != nil && id.reply == nil && id.holder == holder {
		m.remove(id)
	}
	return nil
}

// Evicted returns the number of replies that were dropped because the store was full.
func (m *onceMemory) Evicted() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.evicted
}

// expire removes the ids whose time has passed.
func (m *onceMemory) expire(now time.Time) {
	for len(m.due) > 0 && !m.due[0].until.After(now) {
		m.remove(m.due[0])
	}
}

// add adds a key without a holder. The caller calls keep.
func (m *onceMemory) add(key string) (*onceID, error) {
	name, _, _ := strings.Cut(key, ".")
	client := m.clients[name]
	if client != nil && client.ids >= maxClientIDs {
		return nil, ErrTooManyIDs
	}
	for len(m.ids) >= m.maxIDs {
		if !m.evict() {
			return nil, ErrTooManyIDs // all of them are being handled
		}
	}
	if client = m.clients[name]; client == nil { // perhaps it lost its only id
		client = &onceClient{name: name}
		m.clients[name] = client
		heap.Push(&m.heavy, client)
	}
	client.ids++
	id := &onceID{key: key, client: client}
	m.ids[key] = id
	heap.Push(&m.due, id)
	return id, nil
}

// keep lets a key expire at a time.
func (m *onceMemory) keep(id *onceID, until time.Time) {
	id.until = until
	heap.Fix(&m.due, id.index)
}

func (m *onceMemory) weigh(client *onceClient, more int) {
	client.weight += more
	heap.Fix(&m.heavy, client.index)
}

// evict drops the oldest reply of the client with the most. It reports false if there is none.
func (m *onceMemory) evict() bool {
	if len(m.heavy) == 0 || m.heavy[0].weight == 0 {
		return false
	}
	m.evicted++
	m.remove(m.heavy[0].done.Front().Value.(*onceID))
	return true
}

func (m *onceMemory) remove(id *onceID) {
	delete(m.ids, id.key)
	heap.Remove(&m.due, id.index)
	client := id.client
	if id.order != nil {
		client.done.Remove(id.order)
		m.bytes -= len(id.reply)
		m.weigh(client, -id.weight())
	}
	if client.ids--; client.ids == 0 {
		delete(m.clients, client.name)
		heap.Remove(&m.heavy, client.index)
	}
}

// dueIDs is a heap by the time of expiry.
type dueIDs []*onceID

func (h dueIDs) Len() int           { return len(h) }
func (h dueIDs) Less(i, j int) bool { return h[i].until.Before(h[j].until) }
func (h dueIDs) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueIDs) Push(x any) {
	x.(*onceID).index = len(*h)
	*h = append(*h, x.(*onceID))
}

func (h *dueIDs) Pop() any { return pop((*[]*onceID)(h)) }

// heavyOnes is a heap by weight, the largest first.
type heavyOnes []*onceClient

func (h heavyOnes) Len() int           { return len(h) }
func (h heavyOnes) Less(i, j int) bool { return h[i].weight > h[j].weight }
func (h heavyOnes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *heavyOnes) Push(x any) {
	x.(*onceClient).index = len(*h)
	*h = append(*h, x.(*onceClient))
}

func (h *heavyOnes) Pop() any { return pop((*[]*onceClient)(h)) }

// pop removes the last element of a list and returns it.
func pop[T any](list *[]*T) *T {
	last := len(*list) - 1
	x := (*list)[last]
	(*list)[last] = nil
	*list = (*list)[:last]
	return x
}
