package socket

import (
	"context"
	"fmt"
	"time"

	"bennu.example/transport"
)

func (h *Handler) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// closed forgets a session that has ended.
func (h *Handler) closed(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	h.checkGone()
}

// checkGone tells Shutdown when the last session has ended. The caller holds mu.
func (h *Handler) checkGone() {
	if !h.draining || len(h.sessions) > 0 {
		return
	}
	select {
	case <-h.gone: // it had ended before: a socket slipped in while Shutdown began
	default:
		close(h.gone)
	}
}

// Shutdown ends the handler: new sockets are refused (503), the others are told to come back (close code 1012) in batches as Config.Drain
// says, and when all have ended and no goroutine of theirs is left it returns nil. If ctx ends first, the rest is told at once and Shutdown
// returns the context's error; callbacks that do not return may still run then. http.Server.Shutdown does not know of WebSockets: call
// this first. Only the first call drains; others wait for the same end.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.draining
	h.draining = true
	var all []*session
	for s := range h.sessions {
		all = append(all, s)
	}
	h.checkGone()
	h.mu.Unlock()
	if first {
		h.drain(ctx, all)
	}
	select {
	case <-h.gone:
	case <-ctx.Done():
		return fmt.Errorf("socket: shutdown: %w", ctx.Err())
	}
	h.websocket.Wait()
	h.longpoll.Wait()
	h.longpoll.Close()
	return nil
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
