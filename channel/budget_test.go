package channel

import (
	"testing"
	"unsafe"
)

// TestChannelSize holds the size class of a Channel, which every idle channel occupies.
func TestChannelSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(Channel{}); n > 288 {
		t.Errorf("a Channel has %d bytes: the next size class is 320", n)
	}
}

// Each channel on a recorded topic costs one of these, unless its client did not ask for history
// and Keep.NoGap is set.
func TestExtensionSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(extension{}); n > 128 {
		t.Errorf("an extension has %d bytes: the budget is 128", n)
	}
}
