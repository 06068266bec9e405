! As std.cpp, in Fortran: two geometries of nine atoms.
program std
  use, intrinsic :: iso_c_binding
  use fastgdml
  implicit none
  integer(c_int64_t), parameter :: n_geo = 2
  character(4096) :: path, input, output
  type(c_ptr) :: model
  integer :: unit
  real(c_double), target :: r(3, 9, n_geo), energy(n_geo), forces(3, 9, n_geo)
  real(c_double) :: energy_std(n_geo), force_std(9, n_geo)

  call get_command_argument(1, path)
  call get_command_argument(2, input)
  call get_command_argument(3, output)
  open (newunit=unit, file=trim(input), access='stream', status='old', action='read')
  read (unit) r
  close (unit)
  if (load(path, model) /= 0) error stop 1
  if (fastgdml_predict_std(model, n_geo, r, c_null_ptr, c_loc(energy), c_loc(forces), c_null_ptr, energy_std, &
                           force_std, 0_c_int) /= 0) error stop 2
  open (newunit=unit, file=trim(output), access='stream', status='replace', action='write')
  write (unit) energy, forces, energy_std, force_std
  print '(i0)', fastgdml_model_n_std(model)
end program std
