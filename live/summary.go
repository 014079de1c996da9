package live

import (
	"cmp"
	"container/heap"
	"runtime"
	"runtime/metrics"
	"slices"
	"time"

	"bennu.example/key"
	"bennu.example/pubsub"
	"bennu.example/socket"
)

// The bounds of a summary. With them it has at most about 200 kB, and usually a few.
const (
	maxRows  = 50  // topics and connections
	maxTimes = 100 // callbacks
	maxName  = 200 // bytes of a topic, an id or another name

	// maxMessage bounds a message of another node.
	maxMessage = 512 << 10
)

// version is that of the messages between nodes. Messages of another version are ignored.
const version = 1

// A summary describes a node. It is JSON both between nodes and for the page. All
// times are in milliseconds since 1970, and the counters count from the start.
type summary struct {
	Version int    `json:"version"`
	ID      string `json:"id"`   // of its Handler
	Node    string `json:"node"` // its name on the page
	Begun   int64  `json:"begun"`
	At      int64  `json:"at"`
	TookUS  int64  `json:"took"` // microseconds that the summary took

	Goroutines int    `json:"goroutines"`
	Memory     uint64 `json:"memory"` // bytes of objects on the heap

	Watched   int `json:"watched"` // handlers
	WebSocket int `json:"websocket"`
	LongPoll  int `json:"longpoll"`
	Channels  int `json:"channels"`
	Topics    int `json:"topics"`
	Queued    int `json:"queued"`  // bytes that wait for clients
	Mailbox   int `json:"mailbox"` // bytes that wait for callbacks

	Engine engine            `json:"engine"`
	Counts map[string]uint64 `json:"counts"`

	Largest []topicRow      `json:"largest"` // topics
	Slowest []connectionRow `json:"slowest"` // connections with the longest queues
	Times   []timeRow       `json:"times"`
	Crashes []crash         `json:"crashes"` // the newest last
}

type engine struct {
	Connected bool   `json:"connected"`
	Err       string `json:"err,omitempty"`
	Queued    int    `json:"queued"`
	Dropped   uint64 `json:"dropped"`
}

type topicRow struct {
	Topic       string `json:"topic"`
	Subscribers int    `json:"subscribers"`
}

type connectionRow struct {
	Connection string `json:"connection"`
	Client     string `json:"client"`
	ID         string `json:"id,omitempty"`
	Transport  string `json:"transport"`
	Begun      int64  `json:"begun"`
	Channels   int    `json:"channels"`
	Queued     int    `json:"queued"`
	Mailbox    int    `json:"mailbox"`
}

// waits is the order of connections in a summary.
func (r connectionRow) waits() int { return r.Queued + r.Mailbox }

type timeRow struct {
	Route  string `json:"route"`
	Kind   string `json:"kind"`
	Name   string `json:"name,omitempty"`
	Count  uint32 `json:"count"`  // since about a minute ago
	Median uint64 `json:"median"` // microseconds
	P99    uint64 `json:"p99"`
	Max    uint64 `json:"max"`
}

// summarize computes the summary of this node. It looks at each connection and each topic, and
// calls no user code.
func (h *Handler) summarize() *summary {
	began := time.Now()
	s := &summary{
		Version: version, ID: h.id, Node: h.name(), Begun: h.begun.UnixMilli(), At: began.UnixMilli(),
		Goroutines: runtime.NumGoroutine(), Memory: heapBytes(),
	}
	for _, sockets := range h.watched() {
		s.Watched++
		s.addConnections(sockets)
	}
	slices.SortFunc(s.Slowest, func(a, b connectionRow) int {
		return cmp.Or(b.waits()-a.waits(), cmp.Compare(b.Connection, a.Connection))
	})
	s.addTopics(h.cfg.PubSub, &h.events)
	health := h.cfg.PubSub.Health()
	s.Engine = engine{Connected: health.Connected, Queued: health.Queued, Dropped: health.Dropped}
	if health.Err != nil {
		s.Engine.Err = health.Err.Error()
	}
	h.record.report(s, began)
	s.bound()
	s.TookUS = time.Since(began).Microseconds()
	return s
}

// addConnections adds the connections of a handler to a summary.
func (s *summary) addConnections(sockets *socket.Handler) {
	top := smallest[connectionRow]{rows: s.Slowest, less: func(a, b connectionRow) bool {
		if a.waits() != b.waits() {
			return a.waits() < b.waits()
		}
		return a.Connection < b.Connection // later ones are greater
	}}
	for c := range sockets.Connections() {
		row := connectionRow{
			Connection: c.ConnectionID, Client: c.ClientID, ID: c.Subject, Transport: c.Transport, Queued: c.Queued,
		}
		for _, mailbox := range c.Channels() {
			row.Channels++
			row.Mailbox += mailbox
		}
		if c.Transport == "longpoll" {
			s.LongPoll++
		} else {
			s.WebSocket++
		}
		s.Channels += row.Channels
		s.Queued += row.Queued
		s.Mailbox += row.Mailbox
		top.add(row)
	}
	for i := range top.rows {
		if begun, err := key.Time(top.rows[i].Connection); err == nil {
			top.rows[i].Begun = begun.UnixMilli()
		}
	}
	s.Slowest = top.rows
}

// addTopics adds the topics of a PubSub to a summary. The page's own subscriptions do not count.
func (s *summary) addTopics(ps *pubsub.PubSub, own *watches) {
	top := smallest[topicRow]{less: func(a, b topicRow) bool {
		if a.Subscribers != b.Subscribers {
			return a.Subscribers < b.Subscribers
		}
		return a.Topic > b.Topic
	}}
	watched := own.topics()
	ps.Control().Topics(func(topic string, subscribers int) {
		if watched[topic] {
			subscribers--
		}
		if subscribers <= 0 {
			return
		}
		s.Topics++
		top.add(topicRow{topic, subscribers})
	})
	s.Largest = top.rows
	slices.SortFunc(s.Largest, func(a, b topicRow) int {
		return cmp.Or(b.Subscribers-a.Subscribers, cmp.Compare(a.Topic, b.Topic))
	})
}

// report adds the counters, times and crashes to a summary.
func (r *recorder) report(s *summary, now time.Time) {
	s.Counts = make(map[string]uint64, counters)
	for c := range counters {
		s.Counts[counterNames[c]] = r.counts[c].Load()
	}
	r.timings.Range(func(name, t any) bool {
		of := name.(callbackName)
		row := timeRow{Route: of.Route, Kind: of.Kind, Name: of.Name}
		row.Count, row.Median, row.P99, row.Max = t.(*timing).quantiles()
		if row.Count > 0 {
			s.Times = append(s.Times, row)
		}
		return true
	})
	slices.SortFunc(s.Times, func(a, b timeRow) int {
		return cmp.Or(cmp.Compare(b.P99, a.P99), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Route, b.Route),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	if now.Sub(r.rotated) >= period {
		r.rotated = now
		r.timings.Range(func(_, t any) bool {
			t.(*timing).rotate()
			return true
		})
	}
	r.mu.Lock()
	s.Crashes = slices.Clone(r.crashes)
	r.mu.Unlock()
}

// period is the time between two calls of timing.rotate while somebody looks.
const period = 30 * time.Second

// bound enforces the bounds of a summary.
func (s *summary) bound() {
	for _, text := range []*string{&s.ID, &s.Node, &s.Engine.Err} {
		*text = clip(*text, maxName)
	}
	s.Largest = first(s.Largest, maxRows)
	for i := range s.Largest {
		s.Largest[i].Topic = clip(s.Largest[i].Topic, maxName)
	}
	s.Slowest = first(s.Slowest, maxRows)
	for i := range s.Slowest {
		r := &s.Slowest[i]
		r.Connection, r.Client = clip(r.Connection, maxName), clip(r.Client, maxName)
		r.ID, r.Transport = clip(r.ID, maxName), clip(r.Transport, maxName)
	}
	s.Times = first(s.Times, maxTimes)
	for i := range s.Times {
		r := &s.Times[i]
		r.Route, r.Kind, r.Name = clip(r.Route, maxName), clip(r.Kind, maxName), clip(r.Name, maxName)
	}
	s.Crashes = first(s.Crashes, maxCrashes)
	for i := range s.Crashes {
		c := &s.Crashes[i]
		c.Route, c.Topic, c.Event = clip(c.Route, maxName), clip(c.Topic, maxName), clip(c.Event, maxName)
		c.Reason, c.Err, c.Stack = clip(c.Reason, maxName), clip(c.Err, maxError), clip(c.Stack, maxStack)
	}
	counts := make(map[string]uint64, counters)
	for _, name := range counterNames {
		counts[name] = s.Counts[name]
	}
	s.Counts = counts
}

// first returns the first n rows, and an empty list instead of nil.
func first[T any](rows []T, n int) []T {
	if rows == nil {
		return []T{}
	}
	return rows[:min(len(rows), n)]
}

// heapBytes returns the size of the objects on the heap.
func heapBytes() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// smallest keeps the maxRows largest of many rows. It is a heap whose first row is the smallest.
type smallest[T any] struct {
	rows []T
	less func(a, b T) bool
}

func (s *smallest[T]) Len() int           { return len(s.rows) }
func (s *smallest[T]) Less(i, j int) bool { return s.less(s.rows[i], s.rows[j]) }
func (s *smallest[T]) Swap(i, j int)      { s.rows[i], s.rows[j] = s.rows[j], s.rows[i] }
func (s *smallest[T]) Push(v any)         { s.rows = append(s.rows, v.(T)) }
func (s *smallest[T]) Pop() any           { panic("live: not used") }

func (s *smallest[T]) add(v T) {
	switch {
	case len(s.rows) < maxRows:
		heap.Push(s, v)
	case s.less(s.rows[0], v):
		s.rows[0] = v
		heap.Fix(s, 0)
	}
}
