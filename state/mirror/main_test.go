package mirror_test

import (
	"flag"
	"testing"

	"bennu.example/internal/testenv/leak"
)

// The nightly job makes 500.
var updates = flag.Int("updates", 100, "how many updates each client of TestUpdatesUnderCuts makes")

func TestMain(m *testing.M) { leak.Main(m) }
