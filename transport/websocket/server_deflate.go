package websocket

import (
	"bytes"
	"compress/flate"
)

// deflateThreshold is the smallest payload that is worth deflating. (The library's own.)
const deflateThreshold = 512

// deflater deflates one message at a time. It is more than a megabyte.
type deflater struct {
	out bytes.Buffer
	w   *flate.Writer // to out
}

func newDeflater() *deflater {
	d := &deflater{}
	d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // the level is valid
	return d
}

// deflate is data as permessage-deflate sends it without context takeover, nil if that is no shorter.
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

// deflate has one of s's deflaters do it, of which there are only so many: they are large, and deflating takes a processor.
func (s *Server) deflate(data []byte) []byte {
	d := <-s.deflaters
	if d == nil {
		d = newDeflater()
	}
	z := d.deflate(data)
	s.deflaters <- d
	return z
}

// deflate replaces the payload by its deflated form if that is shorter. Whoever sends the same frame shares it.
func (o *outgoing) deflate(deflated func(data []byte) []byte) {
	if o.frame.Op >= opClose || len(o.payload) < deflateThreshold {
		return
	}
	if z := o.frame.Deflated(deflated); z != nil {
		o.first |= 0x40
		o.payload = z
	}
}
