package longpoll

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

	"bennu.example/serializer"
	"bennu.example/transport"
	"bennu.example/transport/internal/dial"
)

const (
	// postMaxLines bounds the lines of a POST. Servers ignore further lines.
	postMaxLines = 100
	// postMaxBytes bounds a POST of several lines. Servers bound the size of a body.
	postMaxBytes = 512 << 10
)

// Write implements transport.ClientConn. It makes one POST after the other, and returns when the
// last one is answered. So the caller can still decide about frames that are in no request yet.
func (c *clientConn) Write(frames ...*serializer.Frame) error {
	if err := c.beginWrite(); err != nil {
		return err
	}
	defer func() { <-c.writing }()
	for len(frames) > 0 {
		n := c.Batch(frames)
		if err := c.post(bodyFor(frames[:n])); err != nil {
			c.fail(err)
			return c.reason()
		}
		frames = frames[n:]
	}
	return nil
}

// beginWrite waits for earlier Writes.
func (c *clientConn) beginWrite() error {
	select {
	case c.writing <- struct{}{}:
	case <-c.closing:
		return transport.ErrClosed
	case <-c.done:
		return c.reason()
	}
	err := c.reason()
	select {
	case <-c.closing: // the first select chooses at random between ready cases
		err = transport.ErrClosed
	default:
	}
	if err != nil {
		<-c.writing
	}
	return err
}

// Batch implements transport.ClientConn. It returns how many frames fit into the next POST.
func (c *clientConn) Batch(frames []*serializer.Frame) int {
	n, size := 0, 0
	for n < len(frames) && n < postMaxLines {
		f := frames[n]
		if n > 0 && (size+lineSize(f) > postMaxBytes || needsOwnPost(f)) {
			break
		}
		n++
		size += lineSize(f)
		if needsOwnPost(f) {
			break
		}
	}
	return n
}

// post makes a POST. It repeats the POST if the server may have missed the session only because it
// does not read the token's header. An error ends the session.
func (c *clientConn) post(contentType string, body []byte) error {
	for {
		t := c.currentToken()
		status, err := c.postOnce(contentType, body, t)
		if err != nil {
			return err
		}
		if status == statusGone && !t.confirmed {
			select {
			case <-c.settled:
			case <-c.done:
			}
			if c.currentToken().text != t.text {
				continue // the server has not handled the body
			}
		}
		if status != statusOK {
			err := fmt.Errorf("longpoll: post answered with status %d", status)
			return dial.CloseError(transport.CodeInternal, reasonInternal, err)
		}
		c.bytesOut.Add(uint64(len(body)))
		if !t.confirmed {
			c.confirmToken()
			if c.currentToken().text != t.text {
				return errSessionGone() // the poll has another session
			}
		}
		return nil
	}
}

// postOnce makes one request and returns the status of its answer. An error ends the session.
func (c *clientConn) postOnce(contentType string, body []byte, t clientToken) (int, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodPost, contentType, body, t)
	var buf bytes.Buffer
	if err == nil {
		err = c.readBody(resp, &buf)
	}
	var a clientAnswer
	if err == nil {
		a, err = parseAnswer(buf.Bytes(), c.maxMessage)
	}
	if err != nil {
		return 0, c.requestError(ctx, "post", err)
	}
	return a.Status, nil
}

// needsOwnPost reports whether f cannot be a line of a batch. In a batch, a line that does not
// begin with "[" is base64, so an object of version 1.0.0 cannot be a line. Nor can text with a
// line break.
func needsOwnPost(f *serializer.Frame) bool {
	return f.Op == serializer.OpText && (len(f.Data) == 0 || f.Data[0] != '[' || bytes.IndexByte(f.Data, '\n') >= 0)
}

// lineSize returns the size of f as a line, with the line break.
func lineSize(f *serializer.Frame) int {
	if f.Op == serializer.OpBinary {
		return base64.StdEncoding.EncodedLen(len(f.Data)) + 1
	}
	return len(f.Data) + 1
}

// bodyFor returns the body of a POST with the frames of batch, and its content type.
func bodyFor(batch []*serializer.Frame) (contentType string, body []byte) {
	if needsOwnPost(batch[0]) {
		return "application/json", batch[0].Data
	}
	size := 0
	for _, f := range batch {
		size += lineSize(f)
	}
	body = make([]byte, 0, size)
	for i, f := range batch {
		if i > 0 {
			body = append(body, '\n')
		}
		if f.Op == serializer.OpBinary {
			body = base64.StdEncoding.AppendEncode(body, f.Data)
		} else {
			body = append(body, f.Data...)
		}
	}
	return typeBatch, body
}
