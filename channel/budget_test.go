package channel

import (
	"testing"
	"unsafe"
)

// TestChannelSize holds the size class of a Channel, which every idle channel occupies.
func TestChannelSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(Channel{}); n > 320 {
		t.Errorf("a Channel has %d bytes: the next size class is 352", n)
	}
}
