package websocket

import (
	"encoding/binary"
	"sync"

	"bennu.example/serializer"
)

const (
	batchSize  = 64 << 10 // bytes joined in one write, and written before it is another connection's turn
	directSize = 32 << 10 // size from which a payload is written without being copied
	chunkSize  = 16 << 10 // bytes written at a time without a descriptor: a record of TLS
	maxHeader  = 10       // bytes of a server's frame header
)

// outgoing is a frame that a writer has taken.
type outgoing struct {
	frame   *serializer.Frame
	first   byte // of the header: FIN, RSV1 and the opcode
	payload []byte
}

// header appends the header of the frame.
func (o *outgoing) header(dst []byte) []byte {
	dst = append(dst, o.first)
	switch n := len(o.payload); {
	case n <= 125:
		return append(dst, byte(n))
	case n <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
	}
}

func (o *outgoing) headerSize() int {
	switch n := len(o.payload); {
	case n <= 125:
		return 2
	case n <= 0xffff:
		return 4
	default:
		return 10
	}
}

// writer is the state with which a goroutine writes the batches of one connection after another.
type writer struct {
	taken    []*serializer.Frame // the frames of the batch, as the queue returned them
	frames   []outgoing          // the same frames
	i        int                 // the index of the frame to continue with
	offset   int                 // how many of its bytes were written
	progress bool                // something was written
	stalled  bool                // the kernel accepted less than there was
	err      error

	writes, bytes int // since they were last added to the server's counts

	try, wait func(fd uintptr) bool // attempt and attemptOrWait
}

var (
	writers = sync.Pool{New: func() any {
		w := &writer{}
		w.try, w.wait = w.attempt, w.attemptOrWait
		return w
	}}
	batches = sync.Pool{New: func() any { b := make([]byte, 0, batchSize); return &b }}
	chunks  = sync.Pool{New: func() any { b := make([]byte, 0, chunkSize); return &b }}
)

// release adds the writer's counts to those of s, and returns it to the pool.
func (w *writer) release(s *Server) {
	s.writes.Add(uint64(w.writes))
	s.wrote.Add(uint64(w.bytes))
	w.writes, w.bytes = 0, 0
	writers.Put(w)
}

// clear removes the batch.
func (w *writer) clear() {
	clear(w.taken)
	clear(w.frames)
	w.taken, w.frames = w.taken[:0], w.frames[:0]
	w.i, w.offset, w.stalled, w.err = 0, 0, false, nil
}

// next returns the bytes to write next: frames joined in b, or a long payload itself.
func (w *writer) next(b []byte) []byte {
	b = b[:0]
	offset := w.offset
	for i := w.i; i < len(w.frames) && len(b) < cap(b); i++ {
		o := &w.frames[i]
		size := o.headerSize()
		if offset < size {
			if cap(b)-len(b) < size-offset {
				break
			}
			var head [maxHeader]byte
			b = append(b, o.header(head[:0])[offset:]...)
			offset = size
		}
		rest := o.payload[offset-size:]
		if len(b) == 0 && len(rest) >= directSize {
			return rest
		}
		b = append(b, rest[:min(len(rest), cap(b)-len(b))]...)
		offset = 0
	}
	return b
}

// advance accounts for n bytes that were written.
func (w *writer) advance(n int) {
	w.progress = w.progress || n > 0
	w.writes++
	w.bytes += n
	for n > 0 {
		o := &w.frames[w.i]
		left := o.headerSize() + len(o.payload) - w.offset
		if n < left {
			w.offset += n
			return
		}
		n -= left
		w.i++
		w.offset = 0
	}
}

// attempt writes what the kernel accepts without waiting. It returns true, as syscall.RawConn needs
// to return immediately.
func (w *writer) attempt(fd uintptr) bool {
	w.stalled, w.progress = false, false
	b := batches.Get().(*[]byte)
	defer batches.Put(b)
	for w.i < len(w.frames) {
		p := w.next(*b)
		n, err := tryWrite(fd, p)
		w.advance(n)
		if err != nil && err != errWouldBlock {
			w.err = err
			return true
		}
		if n < len(p) {
			w.stalled = true
			return true
		}
	}
	return true
}

// attemptOrWait is attempt, but returns false if nothing was written, so that syscall.RawConn waits
// and calls it again.
func (w *writer) attemptOrWait(fd uintptr) bool {
	w.attempt(fd)
	return w.progress || w.err != nil
}
