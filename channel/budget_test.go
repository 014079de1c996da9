package channel

import (
	"testing"
	"unsafe"
)

// Each idle channel costs one of these.
func TestChannelSize(t *testing.T) {
	t.Parallel()
	if n := unsafe.Sizeof(Channel{}); n > 320 {
		t.Errorf("a Channel has %d bytes: the next size class is 352", n)
	}
}
