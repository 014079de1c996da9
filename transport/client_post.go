package transport

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"

	"bennu.example/serializer"
)

const (
	postMaxLines = 100       // a server uses no more of a POST
	postMaxBytes = 512 << 10 // bytes of a POST with several lines; servers have their own limits on a body
)

// post sends what is queued, one request after the other, until there is nothing left.
func (c *lpClient) post() {
	defer c.exit()
	for {
		batch, size := c.take()
		if batch == nil {
			return
		}
		if err := c.deliver(postedBody(batch)); err != nil {
			c.fail(err)
		}
		clear(batch) // of the queue's array, which may live on
		c.posted(size)
	}
}

// take returns what goes into the next request, and its size. If that is nothing then posting is over.
func (c *lpClient) take() ([]*serializer.Frame, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, size := 0, 0
	for n < len(c.queue) && n < postMaxLines {
		f := c.queue[n]
		if n > 0 && (size+postedSize(f) > postMaxBytes || postedAlone(f)) {
			break
		}
		n++
		size += postedSize(f)
		if postedAlone(f) {
			break
		}
	}
	if n == 0 {
		c.queue = nil
		c.posting = false
		c.wake()
		return nil, 0
	}
	batch := c.queue[:n:n]
	c.queue = c.queue[n:]
	return batch, size
}

// posted notes that a request is done.
func (c *lpClient) posted(size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queued -= size
	c.wake()
}

// deliver makes the request, and once more if it did not reach the session because of how the token was sent. The error is
// what ends the session.
func (c *lpClient) deliver(contentType string, body []byte) error {
	for {
		t := c.session()
		status, err := c.request(contentType, body, t)
		if err != nil {
			return err
		}
		if status == lpGone && !t.proven {
			select {
			case <-c.settled:
			case <-c.done:
			}
			if c.session().text != t.text {
				continue // the server has not read the body
			}
		}
		if status != lpOK {
			return clientCloseError(CodeInternal, lpInternal, fmt.Errorf("transport: post answered with status %d", status))
		}
		c.bytesOut.Add(uint64(len(body)))
		if !t.proven {
			c.prove()
			if c.session().text != t.text {
				return &CloseError{Code: CodeSessionGone, Reason: "session_gone"} // and the poll is of another
			}
		}
		return nil
	}
}

// request makes one request and returns the status of its answer. The error is what ends the session.
func (c *lpClient) request(contentType string, body []byte, t lpToken) (int, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	resp, err := c.send(ctx, http.MethodPost, contentType, body, t)
	var buf bytes.Buffer
	if err == nil {
		err = c.receive(resp, &buf)
	}
	var a lpAnswer
	if err == nil {
		a, err = parseLPAnswer(buf.Bytes(), c.maxMessage)
	}
	if err != nil {
		return 0, c.requestError(ctx, "post", err)
	}
	return a.Status, nil
}

// postedAlone reports whether f cannot be a line among others: only text that begins with a bracket is told from base64, which the
// objects of 1.0.0 do not, and a line cannot contain one's end.
func postedAlone(f *serializer.Frame) bool {
	return f.Op == serializer.OpText && (len(f.Data) == 0 || f.Data[0] != '[' || bytes.IndexByte(f.Data, '\n') >= 0)
}

// postedSize is how long f is in a body, with a line's end.
func postedSize(f *serializer.Frame) int {
	if f.Op == serializer.OpBinary {
		return base64.StdEncoding.EncodedLen(len(f.Data)) + 1
	}
	return len(f.Data) + 1
}

// postedBody makes the body of a request.
func postedBody(batch []*serializer.Frame) (contentType string, body []byte) {
	if postedAlone(batch[0]) {
		return "application/json", batch[0].Data
	}
	size := 0
	for _, f := range batch {
		size += postedSize(f)
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
	return "application/x-ndjson", body
}
