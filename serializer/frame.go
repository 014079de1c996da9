package serializer

import (
	"bytes"
	"sync"
	"sync/atomic"
)

// Frame is an encoded message to be sent. Any number of connections may share it. It must not be
// modified.
type Frame struct {
	Op   Op
	Data []byte

	deflated atomic.Pointer[deflated]
}

// deflated holds a frame's compressed data.
type deflated struct {
	once sync.Once
	data []byte
}

// Deflated returns the result of deflate for the frame's data, which is nil if compression does not
// make it shorter. Only the first call for a frame calls deflate; later calls, also with another
// function, return its result. So a frame for many connections is compressed once. It is used by
// package transport.
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

// Encode returns m as a frame. The frame owns its data.
func Encode(s Serializer, m *Message) (*Frame, error) {
	d := drafts.Get().(*draft)
	defer drafts.Put(d)
	d.message = *m // so that the caller's can stay on the stack
	dst := d.bytes[:0]
	if n := len(m.Payload.raw); n > maxPooled { // too large for the scratch memory
		dst = make([]byte, 0, n+len(m.Topic)+len(m.Event)+256)
	}
	op, data, err := s.Append(dst, &d.message)
	d.message = Message{}
	switch {
	case err != nil:
		return nil, err
	case cap(dst) > maxPooled && len(data) > cap(data)/8*7 && &data[0] == &dst[:1][0]:
		return &Frame{Op: op, Data: data}, nil // no scratch memory and little unused memory: no copy
	case cap(data) <= maxPooled:
		d.bytes = data
	}
	return &Frame{Op: op, Data: bytes.Clone(data)}, nil
}

// draft is the scratch memory in which a frame is encoded.
type draft struct {
	message Message
	bytes   []byte
}

var drafts = sync.Pool{New: func() any { return new(draft) }}
