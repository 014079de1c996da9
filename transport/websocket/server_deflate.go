package websocket

import (
	"bytes"
	"compress/flate"
)

// deflateThreshold is the size from which a payload is compressed. It is the library's own.
const deflateThreshold = 512

// deflater compresses one message at a time. It takes more than a megabyte.
type deflater struct {
	out bytes.Buffer
	w   *flate.Writer // writes to out
}

func newDeflater() *deflater {
	d := &deflater{}
	d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // the level is valid
	return d
}

// deflate returns data in the form of permessage-deflate without context takeover, or nil if that
// is not shorter.
func (d *deflater) deflate(data []byte) []byte {
	d.out.Reset()
	d.w.Reset(&d.out)
	_, _ = d.w.Write(data) // writing to a buffer does not fail
	_ = d.w.Flush()
	z := bytes.TrimSuffix(d.out.Bytes(), []byte("\x00\x00\xff\xff"))
	if len(z) < len(data) {
		z = bytes.Clone(z)
	} else {
		z = nil
	}
	if d.out.Cap() > maxPooledBytes {
		d.out = bytes.Buffer{}
	}
	return z
}

// deflate compresses data with one of the server's deflaters. It waits for a free one: their number
// is bounded, because they are large and compressing occupies a processor.
func (s *Server) deflate(data []byte) []byte {
	d := <-s.deflaters
	if d == nil {
		d = newDeflater()
	}
	z := d.deflate(data)
	s.deflaters <- d
	return z
}

// deflate replaces the payload by its compressed form if that is shorter. All receivers of a frame
// share the result.
func (o *outgoing) deflate(deflated func(data []byte) []byte) {
	if o.frame.Op >= opClose || len(o.payload) < deflateThreshold {
		return
	}
	if z := o.frame.Deflated(deflated); z != nil {
		o.first |= 0x40
		o.payload = z
	}
}
