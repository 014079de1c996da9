package socket

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/serializer"
)

// TestDeniedHold checks how long a session lasts whose client was refused finally, and how many of
// them there are.
func TestDeniedHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newAuthLine(t, Auth{}, "ann.0", nil)
		defer l.end()
		refused := fmt.Errorf("secret: %w", &Refusal{Body: "banned", Final: true})
		var sessions []*session
		for i := range maxDenied + 5 {
			var who identity
			if held := l.h.hold(&who, refused); held != (i < maxDenied) {
				t.Fatalf("number %d: %v", i, held)
			} else if held {
				sessions = append(sessions, l.h.open(l, serializer.V2(), who))
			}
		}
		for _, err := range []error{&Refusal{Body: "x"}, (*Refusal)(nil), errors.New("x"), nil} {
			if l.h.hold(new(identity), err) {
				t.Errorf("%v is final", err)
			}
		}
		s := sessions[0]
		if err := s.Receive(serializer.OpText, []byte(join("1", "$socket"))); err != nil {
			t.Fatal(err)
		}
		l.take()
		s.revoke("again") // without effect
		ctx := context.Background()
		if err := s.apply(ctx, &verified{Context: ctx}, 0, func() {}); !errors.Is(err, errGone) {
			t.Errorf("another grant: %v", err)
		}
		time.Sleep(deniedHold - time.Second)
		l.wantCloses()
		time.Sleep(1250 * time.Millisecond)
		synctest.Wait()
		l.mu.Lock()
		if len(l.closes) != maxDenied || l.closes[0] != "4403 banned" {
			t.Errorf("%d were closed: %q", len(l.closes), l.closes[:1])
		}
		l.closes = nil
		l.mu.Unlock()
		for _, s := range sessions {
			s.Closed(nil)
		}
		if n := l.h.denied.Load(); n != 0 {
			t.Errorf("%d sessions are left", n)
		}
	})
}
