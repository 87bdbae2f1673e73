package pages

// timeWindows are the ranges that a live page offers at once, as in web/src/timeline.ts.
var timeWindows = []struct {
	text string
	ms   int64
}{
	{"1 minute", 60_000}, {"5 minutes", 300_000}, {"15 minutes", 900_000}, {"1 hour", 3_600_000}, {"6 hours", 21_600_000}, {"24 hours", 86_400_000},
	{"7 days", 604_800_000}, {"30 days", 2_592_000_000}, {"1 year", 31_536_000_000},
}

// replaySpeeds are how fast a page can be played, as in web/src/replay.ts.
var replaySpeeds = []string{"0.5", "1", "2", "5", "10", "30", "60"}
