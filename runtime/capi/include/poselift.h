/* Live lifting of 2D human keypoints to 3D poses. Made of runtime/capi/src/lib.rs by cbindgen: change that. */

#ifndef POSELIFT_H
#define POSELIFT_H

#include <stdint.h>

// Joints of a person, in the order of Human3.6M: hip, right hip, knee, foot, left hip, knee, foot, spine, thorax, nose, head, left
// shoulder, elbow, wrist, right shoulder, elbow, wrist. Left and right are the person's own.
#define POSELIFT_JOINTS 17

// Poses that wait to be polled, at most; a stream takes no frame beyond that.
#define POSELIFT_MOST_WAITING 1024

// What runs a model.
typedef enum {
  // ONNX Runtime, from the path in ORT_DYLIB_PATH, beside the executable, or where the system finds it.
  POSELIFT_ENGINE_ORT = 0,
  // tract, which is part of this library.
  POSELIFT_ENGINE_TRACT = 1,
} poselift_engine;

// A model. Streams hold on to it: it may be closed before them.
typedef struct poselift_model poselift_model;

// One person's stream. Calls for one stream from several threads wait for each other.
typedef struct poselift_stream poselift_stream;

// How a person is lifted. Fill it with `poselift_default_options`, then change what is to be different.
typedef struct {
  // Size of the picture that the keypoints come from, pixels.
  uint32_t image_width_px;
  // See `image_width_px`.
  uint32_t image_height_px;
  // Frames, at the model's rate, that are waited for after a frame: a later and better pose; 0 = none, -1 = as the model is used
  // best: 4, or a live model's own.
  int32_t look_ahead;
  // Frames, at the model's rate, between two runs of the model.
  uint32_t hop;
  // Seconds over which a person who is not seen is held.
  double hold_s;
  // The person's height in metres; 0 = not known (1.70 m).
  float height_m;
  // The camera's horizontal field of view in degrees; 0 = not known (60).
  float horizontal_fov_deg;
} poselift_options;

// One frame, lifted.
typedef struct {
  // Time of the frame, as it was pushed.
  double time_s;
  // How much later the newest frame is that the pose was made of, seconds.
  double delay_s;
  // 1 where the person was not seen: the pose is held.
  int held;
  // 1 for the first pose of a person.
  int restarted;
  // Stature of the person at the scale of the millimetres, metres.
  float height_m;
  // Of each keypoint that was pushed, 0 to 1; 0 = it was missing.
  float confidence[POSELIFT_JOINTS];
  // Joints in camera space, millimetres: x right, y down, z away from the camera.
  float camera_mm[POSELIFT_JOINTS][3];
  // Joints in the world, millimetres: z up, the floor at 0.
  float world_mm[POSELIFT_JOINTS][3];
} poselift_pose;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What went wrong in this thread's last call that failed, one sentence of UTF-8; empty where none has. Valid until this thread's next
// call that fails. Never null.
const char *poselift_last_error(void);

// The library's version, such as "0.1.0".
const char *poselift_version(void);

// Opens a lifter: an ONNX file that `export onnx` wrote. `path` is UTF-8. `engine` is one of `poselift_engine`; `threads` of 0 takes as many
// as there are processors. Returns null on failure.
//
// # Safety
// `path` is null or a string that ends in a zero byte.
poselift_model *poselift_model_open(const char *path,
                                    int engine,
                                    uint32_t threads);

// Closes a model; null is nothing. Streams of it go on.
//
// # Safety
// `model` is null or came from `poselift_model_open` and has not been closed.
void poselift_model_close(poselift_model *model);

// How a stream is lifted unless it is said otherwise; the size of the picture must be filled in.
poselift_options poselift_default_options(void);

// Opens a stream of one person. Returns null on failure.
//
// # Safety
// `model` is null or an open model, `options` null or what it points to.
poselift_stream *poselift_open(const poselift_model *model, const poselift_options *options);

// Takes a frame. `keypoints` are 17 times x and y in pixels and a confidence from 0 (missing) to 1, or null where nobody is seen; `time_s` are
// seconds, rising. Runs the model, in the caller's thread. Returns how many poses wait to be polled, or -1 on failure: a frame that
// is refused changes nothing, and the stream goes on either way.
//
// # Safety
// `stream` is null or open, `keypoints` null or 51 numbers.
int poselift_push(poselift_stream *stream,
                  double time_s,
                  const float *keypoints);

// The end: makes the poses of the frames that still wait for their look-ahead. Returns how many poses wait to be polled, or -1 on failure.
// Another frame may follow, of another person.
//
// # Safety
// `stream` is null or open.
int poselift_finish(poselift_stream *stream);

// Gives the oldest pose that waits. Returns 1 with `pose` filled, 0 where none waits, or -1 on failure.
//
// # Safety
// `stream` is null or open; `pose` is null or room for one.
int poselift_poll(poselift_stream *stream, poselift_pose *pose);

// Closes a stream, with all poses that nobody polled; null is nothing.
//
// # Safety
// `stream` is null or came from `poselift_open` and has not been closed.
void poselift_close(poselift_stream *stream);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* POSELIFT_H */
