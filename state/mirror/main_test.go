package mirror_test

import (
	"flag"
	"testing"

	"bennu.example/internal/testenv/leak"
	"bennu.example/internal/testenv/race"
)

// The nightly job makes 500 updates and runs 1,000 seeds.
var (
	updates = flag.Int("updates", 100, "how many updates each client of TestUpdatesUnderCuts makes")
	seeds   = flag.Int("seeds", race.Seeds(20), "how many histories TestRandomHistories runs")
)

func TestMain(m *testing.M) { leak.Main(m) }
