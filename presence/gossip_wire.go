package presence

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math"

	"bennu.example/internal/crdt"
)

// The messages between the shards of different nodes. The format is private to the nodes of a
// cluster. The first byte of a message is the version of the format.
const (
	gossipVersion = 1
	maxClock      = 1<<48 - 1 // the largest clock that fits into a phx_ref
)

type gossipKind byte

const (
	// beat goes to all nodes. It has the clocks of all replicas, and the latest changes, if any.
	beat gossipKind = iota + 1
	// news is an update. To all nodes it has the latest changes and the sender's own clock. To one
	// node, which missed messages, it has the clocks of all replicas.
	news
	// request goes to one node. It has the clocks of all replicas, and requests all later changes.
	request
	// answer goes to one node. It has the requested changes.
	answer
	// goodbye goes to all nodes. The sender has stopped for good.
	goodbye
)

// gossip is one message.
type gossip struct {
	kind   gossipKind
	from   crdt.Replica
	addr   string       // of the sender's node, for the adapter
	to     crdt.Replica // only of a request and an answer
	clocks crdt.Clocks
	delta  *crdt.Delta[*entry]
}

// tagOf returns the part of the refs of presences that identifies their replica.
func tagOf(r crdt.Replica) uint64 {
	h := fnv.New64a()
	h.Write([]byte(r.Name))
	h.Write(binary.BigEndian.AppendUint64(nil, r.Vsn))
	sum := h.Sum64()
	return (sum ^ sum>>48) & maxClock
}

// encode encodes the message. It reads only fields of entries that never change, so it needs no
// lock.
func (g *gossip) encode() []byte {
	w := writer{b: []byte{gossipVersion, byte(g.kind)}, replicas: map[crdt.Replica]int{}, topics: map[string]int{}}
	w.replica(g.from)
	if g.addr == g.from.Name {
		w.text("")
	} else {
		w.text(g.addr)
	}
	if g.kind == request || g.kind == answer {
		w.replica(g.to)
	}
	w.clocks(g.clocks)
	if g.delta == nil {
		w.uint(0)
	} else {
		w.uint(1)
		w.delta(g.delta)
	}
	return w.b
}

// writer encodes messages. It writes a replica or topic in full once, and as a number after that.
type writer struct {
	b        []byte
	replicas map[crdt.Replica]int
	topics   map[string]int
}

func (w *writer) uint(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

func (w *writer) text(s string) {
	w.uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) replica(r crdt.Replica) {
	n, ok := w.replicas[r]
	if ok {
		w.uint(uint64(n))
		return
	}
	w.uint(uint64(len(w.replicas)))
	w.replicas[r] = len(w.replicas)
	w.text(r.Name)
	w.uint(r.Vsn)
}

func (w *writer) topic(s string) {
	n, ok := w.topics[s]
	if ok {
		w.uint(uint64(n))
		return
	}
	w.uint(uint64(len(w.topics)))
	w.topics[s] = len(w.topics)
	w.text(s)
}

func (w *writer) clocks(c crdt.Clocks) {
	w.uint(uint64(len(c)))
	for _, r := range c.Sorted() {
		w.replica(r)
		w.uint(c[r])
	}
}

func (w *writer) delta(d *crdt.Delta[*entry]) {
	if d.Full {
		w.uint(1)
	} else {
		w.uint(0)
		w.clocks(d.Start)
		w.clocks(d.End)
	}
	w.uint(uint64(len(d.Parts)))
	for _, r := range d.Sorted() {
		w.replica(r)
		w.part(d.Parts[r])
	}
}

func (w *writer) part(p *crdt.Part[*entry]) {
	w.uint(p.Context)
	w.uint(uint64(len(p.Cloud)))
	at := uint64(0)
	for _, sp := range p.Cloud {
		w.uint(sp.First - at)
		w.uint(sp.Last - sp.First)
		at = sp.Last
	}
	w.uint(uint64(len(p.Values)))
	at = 0
	for _, clock := range p.Clocks() {
		e := p.Values[clock]
		w.uint(clock - at)
		at = clock
		if e.prev == 0 {
			w.uint(0)
		} else {
			w.uint(clock - e.prev)
		}
		w.topic(e.topic)
		w.text(e.key)
		w.text(e.meta)
	}
}

var errGossip = errors.New("malformed message")

// parseGossip decodes a message. It retains no part of data.
func parseGossip(data []byte) (g *gossip, err error) {
	if len(data) < 2 || data[0] != gossipVersion {
		return nil, errGossip
	}
	r := reader{data: data[2:]}
	g = &gossip{kind: gossipKind(data[1]), from: r.replica(), addr: r.text()}
	if g.addr == "" {
		g.addr = g.from.Name
	}
	if g.kind == request || g.kind == answer {
		g.to = r.replica()
	}
	g.clocks = r.clocks()
	if r.bit() {
		g.delta = r.delta()
	}
	ok := g.from.Name != "" && !r.bad && len(r.data) == 0
	switch g.kind {
	case beat:
	case news, answer:
		ok = ok && g.delta != nil
	case request, goodbye:
		ok = ok && g.delta == nil
	default:
		ok = false
	}
	if !ok {
		return nil, errGossip
	}
	return g, nil
}

// reader decodes messages. After malformed input, bad is true and it returns zero values.
type reader struct {
	data     []byte
	bad      bool
	replicas []crdt.Replica
	topics   []string
}

func (r *reader) fail() {
	r.data, r.bad = nil, true
}

func (r *reader) uint(max uint64) uint64 {
	n, size := binary.Uvarint(r.data)
	if size <= 0 || n > max {
		r.fail()
		return 0
	}
	r.data = r.data[size:]
	return n
}

func (r *reader) bit() bool { return r.uint(1) == 1 }

// count reads the number of elements that follow, of which each has at least size bytes.
func (r *reader) count(size int) int { return int(r.uint(uint64(len(r.data) / size))) }

func (r *reader) bytes() []byte {
	n := r.count(1)
	if n > len(r.data) { // count compared with data before the length was read
		r.fail()
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) replica() crdt.Replica {
	i := int(r.uint(uint64(len(r.replicas))))
	if i == len(r.replicas) {
		r.replicas = append(r.replicas, crdt.Replica{Name: r.text(), Vsn: r.uint(math.MaxUint64)})
	}
	return r.replicas[i]
}

func (r *reader) topic() string {
	i := int(r.uint(uint64(len(r.topics))))
	if i == len(r.topics) {
		r.topics = append(r.topics, r.text())
	}
	return r.topics[i]
}

func (r *reader) clocks() crdt.Clocks {
	n := r.count(2)
	c := make(crdt.Clocks, n)
	for range n {
		replica := r.replica()
		c[replica] = r.uint(maxClock)
	}
	return c
}

func (r *reader) delta() *crdt.Delta[*entry] {
	d := &crdt.Delta[*entry]{Full: r.bit()}
	if !d.Full {
		d.Start, d.End = r.clocks(), r.clocks()
	}
	n := r.count(4)
	d.Parts = make(map[crdt.Replica]*crdt.Part[*entry], n)
	for range n {
		replica := r.replica()
		d.Parts[replica] = r.part(tagOf(replica))
	}
	return d
}

func (r *reader) part(tag uint64) *crdt.Part[*entry] {
	p := &crdt.Part[*entry]{Context: r.uint(maxClock)}
	at := uint64(0)
	for range r.count(2) {
		first := at + r.uint(maxClock-at)
		at = first + r.uint(maxClock-first)
		p.Cloud.Add(crdt.Span{First: first, Last: at})
	}
	n := r.count(7)
	p.Values = make(map[uint64]*entry, n)
	at = 0
	for range n {
		at += r.uint(maxClock - at)
		e := &entry{tag: tag, clock: at}
		if back := r.uint(at); back > 0 {
			e.prev = at - back
		}
		e.topic = r.topic()
		key, meta := r.bytes(), r.bytes()
		if len(meta) < 2 || meta[0] != '{' || meta[len(meta)-1] != '}' {
			r.fail()
			return p
		}
		both := string(append(append(make([]byte, 0, len(key)+len(meta)), key...), meta...))
		e.key, e.meta = both[:len(key)], both[len(key):]
		p.Values[at] = e
	}
	return p
}
