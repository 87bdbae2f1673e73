package devices

// A HistoryQuery asks for what is recorded of some series from From on and before To, both Unix milliseconds.
type HistoryQuery struct {
	Series   []SeriesID
	From, To int64
	Buckets  int // at most so many for each series; 0: the samples themselves
}

// A Bucket is what the samples of a series from T on and before T plus the bucket's width make. Buckets without samples are left out of answers.
// First to Sum are 0 for a String; they are of the latitude for a Location.
type Bucket struct {
	T                          int64 // Unix milliseconds, a multiple of the width
	First, Last, Min, Max, Sum float64
	Count                      int64
	Quality                    Quality // the worst
	Lon                        float64 // of the last sample of a Location
	Text                       string  // of the last sample of a String
}
