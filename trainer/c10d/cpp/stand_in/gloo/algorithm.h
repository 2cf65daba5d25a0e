#pragma once
// What c10d/ProcessGroupGloo.hpp names of gloo, whose headers PyTorch does not ship. Declarations only: all of it lives in libtorch.
