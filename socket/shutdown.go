package socket

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"bennu.example/transport"
)

const (
	// connectTimeout is when the context of Connect ends.
	connectTimeout = 30 * time.Second
	// answerTimeout is how long a client may take to read the answer to its handshake, and lastAnswer the same once
	// the handler shuts down.
	answerTimeout = 15 * time.Second
	lastAnswer    = time.Second
)

// handshake is one that may become a session.
type handshake struct {
	ctx     context.Context
	cancel  context.CancelFunc
	control *http.ResponseController // not to be used once the handshake has left Handler.opening
}

// enter begins a handshake. It returns nil if the handler is shutting down.
func (h *Handler) enter(w http.ResponseWriter) *handshake {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	hs := &handshake{ctx, cancel, http.NewResponseController(w)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		cancel()
		return nil
	}
	h.opening[hs] = struct{}{}
	return hs
}

func (h *Handler) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// leave ends a handshake that has failed or become a session.
func (h *Handler) leave(hs *handshake) {
	hs.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.opening, hs)
	h.checkGone()
}

// closed forgets a session that has ended.
func (h *Handler) closed(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	h.checkGone()
}

// checkGone tells when the last session has ended and none can follow. The caller holds mu.
func (h *Handler) checkGone() {
	if h.draining && len(h.opening) == 0 && len(h.sessions) == 0 {
		close(h.gone)
	}
}

// Shutdown ends the handler: new sockets are refused (503), the others are told to come back (close code 1012) in batches as Config.Drain
// says, and when all have ended and no goroutine of theirs is left it returns nil. If ctx ends first, the rest is told at once and Shutdown
// returns the context's error, wrapped; the ending goes on, as callbacks that do not return may still run then. http.Server.Shutdown does
// not know of WebSockets: call this first. The contexts of Connect are cancelled at once, as are handshakes that wait for their client. Only the first call drains; others wait for the same end, each until its own ctx ends.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.draining
	var all []*session
	if first {
		h.draining = true
		all = slices.Collect(maps.Keys(h.sessions))
		for hs := range h.opening {
			hs.cancel()
			_ = hs.control.SetWriteDeadline(time.Now().Add(lastAnswer)) // without one it has answerTimeout
		}
		h.checkGone()
	}
	h.mu.Unlock()
	if first {
		h.drain(ctx, all)
		go h.end()
	}
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("socket: shutdown: %w", ctx.Err())
	}
}

// end waits until nothing is left, which is when it ends itself. Those who call Shutdown wait for it.
func (h *Handler) end() {
	<-h.gone
	h.websocket.Wait()
	h.longpoll.Wait()
	h.workers.Wait()
	h.longpoll.Close()
	h.noPanic()
	close(h.ended)
}

// drain tells the sessions, a batch at a time.
func (h *Handler) drain(ctx context.Context, all []*session) {
	for i, s := range all {
		if i > 0 && i%h.cfg.Drain.Batch == 0 {
			pause := time.NewTimer(h.cfg.Drain.Interval)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
			}
		}
		s.conn.Close(transport.CodeRestart, "")
	}
}
