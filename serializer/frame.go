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
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	op, data, err := s.Append((*scratch)[:0], m)
	if err != nil {
		return nil, err
	}
	if cap(data) <= maxPooled {
		*scratch = data
	}
	return &Frame{Op: op, Data: bytes.Clone(data)}, nil
}
