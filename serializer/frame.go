package serializer

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// Frame is one encoded message on its way out. It may be shared by any number of connections and is never written to.
type Frame struct {
	Op   Op
	Data []byte

	deflated atomic.Pointer[deflated]
}

// deflated is a frame's data in fewer bytes.
type deflated struct {
	once sync.Once
	data []byte
}

// Deflated returns what deflate makes of the frame's data, which is nil if it cannot be made shorter. It calls deflate once, whoever asks and
// how often, so that a frame for many connections is deflated once; of several deflate functions only the first is called. For package
// transport.
func (f *Frame) Deflated(deflate func(data []byte) []byte) []byte {
	d := f.deflated.Load()
	if d == nil {
		d = new(deflated)
		if !f.deflated.CompareAndSwap(nil, d) {
			d = f.deflated.Load()
		}
	}
	d.once.Do(func() { d.data = deflate(f.Data) })
	return d.data
}

// Encode makes the frame of m, in memory of its own and no more than it needs.
func Encode(s Serializer, m *Message) (*Frame, error) {
	d := drafts.Get().(*draft)
	defer drafts.Put(d)
	d.message = *m // the caller's may stay on its stack
	op, data, err := s.Append(d.bytes[:0], &d.message)
	d.message = Message{}
	if err != nil {
		return nil, err
	}
	if cap(data) <= maxPooled {
		d.bytes = data
	}
	return &Frame{Op: op, Data: bytes.Clone(data)}, nil
}

// draft is what a frame is made in.
type draft struct {
	message Message
	bytes   []byte
}

var drafts = sync.Pool{New: func() any { return new(draft) }}
