package natsengine

import (
	"encoding/binary"
	"fmt"
)

// webSocket checks what a server sends over a WebSocket: the response to the handshake, frames
// without extensions, and their contents.
type webSocket struct {
	inner  frames
	open   bool   // the handshake is complete
	head   []byte // the beginning of the response, or of a frame
	rest   int64  // missing bytes of the frame
	binary bool   // the frame contains the server's protocol; otherwise it is a control frame
}

// check returns an error if p, which follows the bytes that were checked before, breaks the
// protocol.
func (w *webSocket) check(p []byte) error {
	for len(p) > 0 {
		if w.rest > 0 {
			n := min(w.rest, int64(len(p)))
			if w.binary {
				if err := w.inner.check(p[:n]); err != nil {
					return err
				}
			}
			w.rest -= n
			p = p[n:]
			continue
		}
		w.head = append(w.head, p[0])
		p = p[1:]
		if err := w.header(); err != nil {
			return err
		}
	}
	return nil
}

// header parses head if it is complete.
func (w *webSocket) header() error {
	h := w.head
	if !w.open {
		if len(h) >= 4 && string(h[len(h)-4:]) == "\r\n\r\n" {
			w.open, w.head = true, nil
		} else if len(h) > 64<<10 {
			return fmt.Errorf("%w: the response to the handshake is too long", errProtocol)
		}
		return nil
	}
	if len(h) < 2 {
		return nil
	}
	size := int64(h[1] & 0x7f)
	switch {
	case size == 126 && len(h) < 4, size == 127 && len(h) < 10:
		return nil
	case size == 126:
		size = int64(binary.BigEndian.Uint16(h[2:]))
	case size == 127:
		size = int64(min(binary.BigEndian.Uint64(h[2:]), 1<<62))
	}
	op := h[0] & 0xf
	control := op >= 8
	bad := h[0]&0x70 != 0 || h[1]&0x80 != 0 || size > maxFrame+maxLine
	if control {
		bad = bad || size > 125 || h[0]&0x80 == 0 || op > 10
	} else {
		bad = bad || op > 2
	}
	if bad {
		return fmt.Errorf("%w: a malformed WebSocket frame", errProtocol)
	}
	w.rest, w.binary, w.head = size, !control, h[:0]
	return nil
}
