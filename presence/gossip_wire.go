package presence

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"maps"
	"slices"

	"bennu.example/internal/crdt"
)

// What the shards of different nodes tell each other. The format is private to the nodes of a cluster; its first byte is its version.
const (
	gossipVersion = 1
	maxClock      = 1<<48 - 1 // what fits into a phx_ref
)

type gossipKind byte

const (
	beat    gossipKind = iota + 1 // to all: I am alive, have come this far, and this is new
	request                       // to one: this is how far I have come, tell me what I lack
	answer                        // to one: what it lacks
	goodbye                       // to all: I am gone for good
)

// gossip is one message.
type gossip struct {
	kind   gossipKind
	from   crdt.Replica
	addr   string       // the sender's node, for the adapter
	to     crdt.Replica // of a request and an answer
	clocks crdt.Clocks
	delta  *crdt.Delta[*entry]
}

// tagOf is a replica's part of the refs of its presences.
func tagOf(r crdt.Replica) uint64 {
	h := fnv.New64a()
	h.Write([]byte(r.Name))
	h.Write(binary.BigEndian.AppendUint64(nil, r.Vsn))
	sum := h.Sum64()
	return (sum ^ sum>>48) & maxClock
}

// append appends the message. It reads entries, but no field that changes.
func (g *gossip) append(dst []byte) []byte {
	dst = append(dst, gossipVersion, byte(g.kind))
	dst = appendReplica(dst, g.from)
	dst = appendText(dst, g.addr)
	dst = appendReplica(dst, g.to)
	dst = appendClocks(dst, g.clocks)
	if g.delta == nil {
		return append(dst, 0)
	}
	return appendDelta(append(dst, 1), g.delta)
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendReplica(dst []byte, r crdt.Replica) []byte {
	return binary.AppendUvarint(appendText(dst, r.Name), r.Vsn)
}

func appendClocks(dst []byte, c crdt.Clocks) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(c)))
	for _, r := range c.Sorted() {
		dst = binary.AppendUvarint(appendReplica(dst, r), c[r])
	}
	return dst
}

func appendDelta(dst []byte, d *crdt.Delta[*entry]) []byte {
	if d.Full {
		dst = append(dst, 1)
	} else {
		dst = appendClocks(appendClocks(append(dst, 0), d.Start), d.End)
	}
	topics := map[string]uint64{}
	dst = binary.AppendUvarint(dst, uint64(len(d.Parts)))
	for _, r := range d.Sorted() {
		p := d.Parts[r]
		dst = binary.AppendUvarint(appendReplica(dst, r), p.Context)
		dst = binary.AppendUvarint(dst, uint64(len(p.Cloud)))
		at := uint64(0)
		for _, sp := range p.Cloud {
			dst = binary.AppendUvarint(dst, sp.First-at)
			dst = binary.AppendUvarint(dst, sp.Last-sp.First)
			at = sp.Last
		}
		dst = binary.AppendUvarint(dst, uint64(len(p.Values)))
		at = 0
		for _, clock := range slices.Sorted(maps.Keys(p.Values)) {
			e := p.Values[clock]
			dst = binary.AppendUvarint(dst, clock-at)
			at = clock
			prev := uint64(0)
			if e.prev != 0 {
				prev = clock - e.prev
			}
			dst = binary.AppendUvarint(dst, prev)
			n, ok := topics[e.topic]
			if !ok {
				n = uint64(len(topics))
				topics[e.topic] = n
			}
			dst = binary.AppendUvarint(dst, n)
			if !ok {
				dst = appendText(dst, e.topic)
			}
			dst = appendText(appendText(dst, e.key), e.meta)
		}
	}
	return dst
}

var errGossip = errors.New("not a message of a presence")

// parseGossip reads a message. It keeps no part of data.
func parseGossip(data []byte) (g *gossip, err error) {
	if len(data) < 2 || data[0] != gossipVersion {
		return nil, errGossip
	}
	r := reader{data: data[2:]}
	g = &gossip{kind: gossipKind(data[1]), from: r.replica(), addr: r.text(), to: r.replica(), clocks: r.clocks()}
	if r.bit() {
		g.delta = r.delta()
	}
	if r.bad || len(r.data) > 0 || g.kind < beat || g.kind > goodbye || g.from.Name == "" || (g.kind == answer) != (g.delta != nil && g.kind != beat) {
		return nil, errGossip
	}
	return g, nil
}

// reader reads what is well formed, and zero values from where it is not.
type reader struct {
	data []byte
	bad  bool
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

// count is the number of things of at least size bytes each that follow.
func (r *reader) count(size int) int { return int(r.uint(uint64(len(r.data) / size))) }

func (r *reader) bytes() []byte {
	n := r.count(1)
	if n > len(r.data) { // the length itself took the last of them
		r.fail()
		return nil
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

func (r *reader) replica() crdt.Replica { return crdt.Replica{Name: r.text(), Vsn: r.uint(1<<64 - 1)} }

func (r *reader) clocks() crdt.Clocks {
	n := r.count(3)
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
	n := r.count(5)
	d.Parts = make(map[crdt.Replica]*crdt.Part[*entry], n)
	var topics []string
	for range n {
		replica := r.replica()
		d.Parts[replica] = r.part(tagOf(replica), &topics)
	}
	return d
}

func (r *reader) part(tag uint64, topics *[]string) *crdt.Part[*entry] {
	p := &crdt.Part[*entry]{Context: r.uint(maxClock)}
	at := uint64(0)
	for range r.count(2) {
		first := at + r.uint(maxClock-at)
		at = first + r.uint(maxClock-first)
		p.Cloud.Add(crdt.Span{First: first, Last: at})
	}
	n := r.count(6)
	p.Values = make(map[uint64]*entry, n)
	at = 0
	for range n {
		at += r.uint(maxClock - at)
		e := &entry{tag: tag, clock: at}
		if back := r.uint(at); back > 0 {
			e.prev = at - back
		}
		switch i := r.uint(uint64(len(*topics))); {
		case r.bad:
			return p
		case i == uint64(len(*topics)):
			*topics = append(*topics, r.text())
			fallthrough
		default:
			e.topic = (*topics)[i]
		}
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
