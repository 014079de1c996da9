package socket

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

const (
	// connectTimeout bounds the context of Connect.
	connectTimeout = 30 * time.Second
	// answerTimeout bounds the time in which a client reads the answer to its handshake. lastAnswer
	// replaces it when the handler shuts down.
	answerTimeout = 15 * time.Second
	lastAnswer    = time.Second
)

// handshake is a request that may become a session.
type handshake struct {
	ctx     context.Context
	cancel  context.CancelFunc
	control *http.ResponseController // must not be used after the handshake has left Handler.opening
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

// closed removes a session that has ended.
func (h *Handler) closed(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sessions, s)
	if s.phase() == phaseRefused {
		h.denied.Add(-1)
	}
	h.checkGone()
}

// checkGone closes gone if the last session has ended and none can follow. The caller holds mu.
func (h *Handler) checkGone() {
	if h.draining && len(h.opening) == 0 && len(h.sessions) == 0 {
		close(h.gone)
	}
}

// Shutdown ends the handler. New sockets are refused with status 503 and Retry-After. The others
// are closed with code 1012, so that their clients reconnect, in batches as Config.Drain
// determines. Clients that joined the channel $socket are notified before: see [Drain]. Shutdown
// returns nil when all sockets have ended and none of their goroutines is left.
//
// If ctx ends first, Shutdown closes the remaining sockets immediately and returns the context's
// error, wrapped. Callbacks that have not returned may still run then, and the sockets end when
// they return.
//
// The contexts of Connect are canceled immediately. A Connect that ignores its context keeps
// Shutdown waiting until it returns or ctx ends. Handshakes whose clients do not read the answer
// end after a second.
//
// Call Shutdown before http.Server.Shutdown, which does not wait for WebSockets. The first call
// drains the handler; other calls wait for the same end, each until its own ctx ends.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	first := !h.draining
	var all []*session
	if first {
		h.draining = true
		all = slices.Collect(maps.Keys(h.sessions))
		for hs := range h.opening {
			hs.cancel()
			_ = hs.control.SetWriteDeadline(time.Now().Add(lastAnswer)) // a later answer has answerTimeout
		}
		h.checkGone()
	}
	h.mu.Unlock()
	if first {
		d := h.depart(all, reasonRestart)
		err := d.run(ctx)
		if err != nil {
			d.closeRest()
		}
		go h.end()
		if err != nil { // whether or not the sockets have ended meanwhile
			return fmt.Errorf("socket: shutdown: %w", err)
		}
	}
	select {
	case <-h.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("socket: shutdown: %w", ctx.Err())
	}
}

// end waits until nothing is left, and then releases what the handler holds. Shutdown waits for it.
func (h *Handler) end() {
	<-h.gone
	h.websocket.Wait()
	h.longpoll.Wait()
	h.background.end()
	h.kicks.end()
	h.wills.stop()
	h.expiry.end()
	h.tasks.Close(false)
	h.tasks.Wait()
	h.workers.Wait()
	h.drops.end()
	h.longpoll.Close()
	h.noPanic()
	close(h.ended)
}
