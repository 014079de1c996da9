package channel

import (
	"errors"
	"testing"

	"bennu.example/transport"
)

// TestClosedError checks that the reason of a connection's end is found, and that reading neither
// needs its text nor loses it.
func TestClosedError(t *testing.T) {
	t.Parallel()
	end := &transport.CloseError{Code: transport.CodeInternal, Reason: "broken"}
	err := error(&closedError{end})
	if got, ok := errors.AsType[*transport.CloseError](err); !ok || got != end {
		t.Errorf("got %v of %v", got, err)
	}
	if !errors.Is(err, ErrClosed) || errors.Is(err, ErrLeft) {
		t.Errorf("%v is not only ErrClosed", err)
	}
	if want := ErrClosed.Error() + ": " + end.Error(); err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
}
