package offline_test

import (
	"testing"

	"bennu.example/internal/testenv/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }
