package will

import (
	"container/heap"
	"container/list"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// memoryArrivals is the number of arrivals without wills that a memory knows. The oldest are
// forgotten first.
const memoryArrivals = 100_000

// NewMemory returns a Store in the memory of this process. Handlers of one process may share it.
func NewMemory() Store { return NewStore(newMemory(monotonic(), memoryArrivals), Keep) }

// monotonic returns a clock on which steps of the system's clock have no effect.
func monotonic() func() time.Time {
	base := time.Now()
	return func() time.Time { return base.Add(time.Since(base)) }
}

// memory is a Table in memory.
type memory struct {
	now      func() time.Time
	arrivals int // the most entries in idle

	mu       sync.Mutex
	versions uint64
	entries  map[string]*memoryEntry
	due      memoryHeap
	idle     list.List                            // arrivals without wills, oldest first: *memoryEntry
	nodes    map[string]map[*memoryEntry]struct{} // with the entries of each
	leases   map[string]time.Time                 // their ends
}

type memoryEntry struct {
	Entry
	key   string
	index int           // in due; -1 if it is not there
	idle  *list.Element // nil if it is not there
}

func newMemory(now func() time.Time, arrivals int) *memory {
	return &memory{
		now: now, arrivals: arrivals,
		entries: make(map[string]*memoryEntry),
		nodes:   make(map[string]map[*memoryEntry]struct{}),
		leases:  make(map[string]time.Time),
	}
}

func (m *memory) Get(_ context.Context, key string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var e Entry
	if found := m.entries[key]; found != nil {
		e = found.Entry
	}
	e.Now = m.now()
	return e, nil
}

func (m *memory) Swap(_ context.Context, key, version string, e Entry) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.entries[key]
	if old == nil && version != "" || old != nil && old.Version != version {
		return false, nil
	}
	if old != nil {
		m.remove(old)
	}
	if len(e.Value) > 0 {
		m.versions++
		e.Version = strconv.FormatUint(m.versions, 36)
		m.add(&memoryEntry{Entry: e, key: key, index: -1})
	}
	return true, nil
}

func (m *memory) add(e *memoryEntry) {
	m.entries[e.key] = e
	if !e.At.IsZero() {
		heap.Push(&m.due, e)
	}
	for _, node := range e.Nodes {
		if m.nodes[node] == nil {
			m.nodes[node] = make(map[*memoryEntry]struct{})
		}
		m.nodes[node][e] = struct{}{}
		if _, ok := m.leases[node]; !ok {
			m.leases[node] = m.now()
		}
	}
	if len(e.Nodes) == 0 && e.At.Sub(m.now()) > Keep/2 {
		e.idle = m.idle.PushBack(e)
		if m.idle.Len() > m.arrivals {
			m.remove(m.idle.Front().Value.(*memoryEntry))
		}
	}
}

func (m *memory) remove(e *memoryEntry) {
	delete(m.entries, e.key)
	if e.index >= 0 {
		heap.Remove(&m.due, e.index)
	}
	for _, node := range e.Nodes {
		delete(m.nodes[node], e)
		if len(m.nodes[node]) == 0 {
			delete(m.nodes, node)
		}
	}
	if e.idle != nil {
		m.idle.Remove(e.idle)
	}
}

func (m *memory) Due(_ context.Context, most int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var taken []*memoryEntry
	for len(taken) < most && len(m.due) > 0 && !m.due[0].At.After(now) {
		taken = append(taken, heap.Pop(&m.due).(*memoryEntry))
	}
	keys := make([]string, 0, len(taken))
	for _, e := range taken {
		keys = append(keys, e.key)
		heap.Push(&m.due, e)
	}
	return keys, nil
}

func (m *memory) OfNode(_ context.Context, node string, most int) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for e := range m.nodes[node] {
		if len(keys) == most {
			break
		}
		keys = append(keys, e.key)
	}
	return keys, nil
}

func (m *memory) Lease(_ context.Context, node string, d time.Duration) (kept bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	kept = m.leases[node].After(now)
	if d > 0 || kept {
		m.leases[node] = now.Add(max(d, 0))
	}
	return kept, nil
}

func (m *memory) Ended(context.Context) ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	var ended []Lease
	for _, node := range slices.Sorted(maps.Keys(m.leases)) {
		if end := m.leases[node]; !end.After(now) {
			ended = append(ended, Lease{node, end})
		}
	}
	return ended, nil
}

func (m *memory) Drop(_ context.Context, node string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.leases[node].After(m.now()) && len(m.nodes[node]) == 0 {
		delete(m.leases, node)
	}
	return nil
}

// memoryHeap implements heap.Interface, by At.
type memoryHeap []*memoryEntry

func (h memoryHeap) Len() int           { return len(h) }
func (h memoryHeap) Less(i, k int) bool { return h[i].At.Before(h[k].At) }
func (h memoryHeap) Swap(i, k int) {
	h[i], h[k] = h[k], h[i]
	h[i].index, h[k].index = i, k
}

func (h *memoryHeap) Push(x any) {
	e := x.(*memoryEntry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *memoryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.index = -1
	return e
}
