package natsengine

import (
	"context"
	"math"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"bennu.example/engine/internal/fields"
)

const (
	// partSize bounds the part of a snapshot that is one message.
	partSize = 128 << 10
	// maxTidying bounds the objects that wait for a snapshot.
	maxTidying = 1024
)

// tidying are the objects whose log is long.
type tidying struct {
	wake chan struct{} // has a value if there is one

	mu      sync.Mutex
	objects map[string]struct{}
}

func (t *tidying) init() {
	t.wake, t.objects = make(chan struct{}, 1), make(map[string]struct{})
}

func (t *tidying) add(object string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.objects) < maxTidying {
		t.objects[object] = struct{}{}
		signal(t.wake)
	}
}

func (t *tidying) take() (object string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for object := range t.objects {
		delete(t.objects, object)
		return object, true
	}
	return "", false
}

// tidy replaces long logs by snapshots, until ctx ends.
func (s *objects) tidy(ctx context.Context) {
	for {
		select {
		case <-s.tidying.wake:
		case <-ctx.Done():
			return
		}
		for object, ok := s.tidying.take(); ok && ctx.Err() == nil; object, ok = s.tidying.take() {
			if err := s.compact(ctx, object); err != nil && ctx.Err() == nil {
				s.logger.Debug().Err(err).Str("topic", object).Msg("snapshot of an object failed")
			}
		}
	}
}

// part is a message that has a part of a snapshot.
type part struct {
	nonce  uint64 // of the snapshot
	epoch  string // of the object
	covers uint64 // the last message of the log that the snapshot has
	index  int
	count  int
	data   []byte

	seq uint64
}

func (p *part) encode() []byte {
	w := append(make(fields.Writer, 0, len(p.data)+64), logVersion)
	w.Number(p.nonce)
	w.Text(p.epoch)
	w.Number(p.covers)
	w.Number(uint64(p.index)) //nolint:gosec // it is positive
	w.Number(uint64(p.count)) //nolint:gosec // it is positive
	w.Bytes(p.data)
	return w
}

func parsePart(seq uint64, data []byte) (p part, ok bool) {
	if len(data) == 0 || data[0] != logVersion {
		return p, false
	}
	r := fields.NewReader(data[1:])
	p = part{
		seq: seq, nonce: r.Number(), epoch: r.Text(), covers: r.Number(),
		index: int(r.Number() & math.MaxInt32), //nolint:gosec // it fits
		count: int(r.Number() & math.MaxInt32), //nolint:gosec // it fits
		data:  r.Bytes(),
	}
	return p, r.Err() == nil && p.index < p.count
}

// compact stores a snapshot of an object, and then removes the messages of its log that the
// snapshot has, and the older snapshots. The last message that it has remains: the next write is
// conditional on it.
//
// Each part is stored only if it follows the one before it. So the parts of two snapshots do not
// mix, and of two complete snapshots the later one also has what the earlier one has: what is
// removed is never needed, however late that happens.
func (s *objects) compact(ctx context.Context, object string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*s.timeout)
	defer cancel()
	c, st, err := s.hold(ctx, object)
	if err != nil {
		return err
	}
	held := true
	release := func() {
		if held {
			held = false
			s.release(c)
		}
	}
	defer release()
	m, ok, err := s.last(ctx, &st, s.partsOf(object)) // before the copy is compared with the log
	if err != nil {
		return err
	}
	if err := s.refresh(ctx, c, &st); err != nil || !c.copy.exists {
		return err
	}
	r := c.copy
	if p, valid := parsePart(m.seq, m.data); ok && valid && p.index == p.count-1 && p.epoch == r.epoch &&
		p.covers > r.snapshot && p.covers <= r.seq {
		r.snapshot, r.logged = p.covers, 0 // another node was faster
		return nil
	}
	data := r.encode()
	p := part{nonce: newMessageNonce(), epoch: r.epoch, covers: r.seq, count: (len(data) + partSize - 1) / partSize}
	r.snapshot, r.logged = p.covers, 0 // if it fails, the next one follows when as much was written
	release()
	last, first := m.seq, uint64(0)
	for ; p.index < p.count; p.index++ {
		n := min(partSize, len(data))
		p.data, data = data[:n], data[n:]
		header := nats.Header{nats.ExpectedLastSubjSeqHdr: {strconv.FormatUint(last, 10)}}
		if last, err = s.put(ctx, s.partsOf(object), header, p.encode()); err != nil {
			return err
		}
		if first == 0 {
			first = last
		}
	}
	if err := s.purge(ctx, s.logOf(object), p.covers); err != nil {
		return err
	}
	if err := s.purge(ctx, s.partsOf(object), first); err != nil {
		return err
	}
	// If the object was removed meanwhile, nobody needs the snapshot.
	end, ok, err := s.last(ctx, &st, s.logOf(object))
	if err != nil {
		return err
	}
	if e, valid := parseEntry(end.seq, end.data); !ok || valid && e.kind == kindGone {
		return s.purge(ctx, s.partsOf(object), last+1)
	}
	return nil
}

// newestSnapshot returns the newest complete snapshot of an object. It returns nil if there is
// none.
func (s *objects) newestSnapshot(ctx context.Context, object string) (newest *replica, err error) {
	var data []byte
	var current part // the snapshot whose parts are read, and the last one of them
	for from := uint64(1); ; {
		a, err := s.messages(ctx, s.partsOf(object), from, maxReplay)
		if err != nil {
			return nil, err
		}
		for _, m := range a.messages {
			seq, err := headerNumber(m, nats.JSSequence)
			if err != nil {
				return nil, unavailable(err)
			}
			from = seq + 1
			p, ok := parsePart(seq, m.Data)
			switch {
			case ok && p.index == 0:
				data = nil
			case !ok || p.nonce != current.nonce || p.index != current.index+1:
				current = part{}
				continue
			}
			current = p
			data = append(data, p.data...)
			if p.index < p.count-1 {
				continue
			}
			if r, ok := parseReplica(data); ok && (newest == nil || r.seq >= newest.seq) {
				newest = r
			}
		}
		if a.pending == 0 || len(a.messages) == 0 {
			return newest, nil
		}
	}
}
